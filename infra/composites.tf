# Alarms over alarms: one mail for one outage, and one tile for the state of the service.

locals {
  # While the composite exists its members have no actions of their own.
  outage_keys = var.composites_enabled ? [for key in keys(local.alarms) : key if contains(var.outage_members, key)] : []

  health_keys = var.composites_enabled ? [for key, alarm in local.alarms : key if alarm.severity == "critical"] : []

  composites = merge(
    { for key in ["service-outage"] : key => {
      name = "${var.name_prefix}-${key}"
      rule = join(" OR ", [for member in local.outage_keys : "ALARM(\"${aws_cloudwatch_metric_alarm.this[member].alarm_name}\")"])
      description = join("\n\n", [
        "CRITICAL: Uploads are not being turned into predictions. The reason below names the first alarm that says so.",
        "Condition: any of ${join(", ", local.outage_keys)} is in ALARM.",
        "Impact: customers wait for results, or do not get them.",
        "First steps: open the real-time dashboard; take the runbook of the alarm named in the reason; later symptoms of the same outage send no further mail.",
        "Runbook: ${var.runbook_base_url}#${key}",
      ])
      notifies = true
    } if length(local.outage_keys) > 0 },
    { for key in ["service-health"] : key => {
      name = "${var.name_prefix}-${key}"
      rule = join(" OR ", [for member in local.health_keys : "ALARM(\"${aws_cloudwatch_metric_alarm.this[member].alarm_name}\")"])
      description = join("\n\n", [
        "CRITICAL: At least one critical alarm is in ALARM. A tile for dashboards, which mails nobody.",
        "Condition: any critical alarm is in ALARM.",
        "Impact: that of the alarm that is red.",
        "First steps: look at the alarm list of the real-time dashboard.",
        "Runbook: ${var.runbook_base_url}#${key}",
      ])
      notifies = false
    } if length(local.health_keys) > 0 },
  )
}

resource "aws_cloudwatch_composite_alarm" "this" {
  for_each = local.composites

  alarm_name        = each.value.name
  alarm_description = each.value.description
  alarm_rule        = each.value.rule
  actions_enabled   = true
  alarm_actions     = each.value.notifies ? local.actions.critical : []
  ok_actions        = each.value.notifies && var.notify_on_recovery ? local.actions.critical : []
  tags              = merge(local.tags, { Severity = "critical" })
}
