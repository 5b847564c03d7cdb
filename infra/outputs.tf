output "topic_arns" {
  description = "ARN of each topic: critical, and warning where warnings have their own."
  value       = local.topic_arns
}

output "topic_policy_json" {
  description = "Per topic, the policy it needs. Created topics have it; a topic passed in existing_topic_arns needs the same statement."
  value       = local.topic_policies
}

output "kms_key_arn" {
  description = "ARN of the customer managed key of the topics; null without one."
  value       = local.kms_key_arn
}

output "undelivered_queue_url" {
  description = "URL of the queue of alerts that SNS could not deliver; null without one."
  value       = one(aws_sqs_queue.undelivered[*].url)
}

output "alarms" {
  description = "Every metric alarm by key: name, ARN, severity, condition, description, runbook, and the alarm that mails for it."
  value = { for key, alarm in local.alarms : key => {
    name             = alarm.name
    arn              = aws_cloudwatch_metric_alarm.this[key].arn
    severity         = alarm.severity
    condition        = alarm.condition
    description      = alarm.description
    runbook          = alarm.runbook
    notifies_through = contains(local.outage_keys, key) ? local.composites["service-outage"].name : alarm.name
  } }
}

output "composites" {
  description = "Every composite alarm by key: name, ARN and rule."
  value = { for key, composite in local.composites : key => {
    name = composite.name
    arn  = aws_cloudwatch_composite_alarm.this[key].arn
    rule = composite.rule
  } }
}

output "dashboards" {
  description = "Address of each dashboard in the console, by key: realtime and trend."
  value = { for key, dashboard in aws_cloudwatch_dashboard.this : key =>
    "https://${local.region}.console.aws.amazon.com/cloudwatch/home?region=${local.region}#dashboards/dashboard/${dashboard.dashboard_name}"
  }
}

output "publisher_policy_json" {
  description = "IAM policy for the API and the worker: cloudwatch:PutMetricData, limited to the namespaces of RetainWise."
  value       = local.publisher_policy
}

output "next_steps" {
  description = "What Terraform cannot do: a person has to confirm each subscription."
  value = join(" ", [
    "Confirm the subscription in the mail that AWS sent to: ${join(", ", distinct(concat(var.critical_emails, var.warning_emails)))}.",
    "Until then no alarm reaches that address.",
    "Then run: retainwise-metrics check, and retainwise-metrics drill --all.",
  ])
}
