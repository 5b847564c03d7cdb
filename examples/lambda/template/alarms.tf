# Two alarms: a backup failed, and there has been none for too long. The second also sees a function that does not run at all.

locals {
  # Exactly the dimensions that the function publishes under; CloudWatch adds nothing up across them.
  dimensions = { ClusterName = var.cluster_name, FunctionName = var.name }
}

resource "aws_cloudwatch_metric_alarm" "failed" {
  alarm_name        = "${var.name}-failed"
  alarm_description = <<-TEXT
    CRITICAL: The etcd backup of ${var.cluster_name} failed.

    Impact: the newest backup gets older; what changed since then would be lost with the cluster.

    First steps: read the reason in the log group ${aws_cloudwatch_log_group.function.name}; run ${var.backup_command} on a control plane node by hand.
  TEXT
  alarm_actions     = [var.topic_arn]
  ok_actions        = [var.topic_arn]
  tags              = var.tags

  namespace           = "K8sCluster/EtcdBackup"
  metric_name         = "BackupFailure"
  dimensions          = local.dimensions
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  # No FILL here, and `ignore`: between two runs there is no data, and a failed backup stays failed until one succeeds. A run that
  # succeeds publishes a zero, which ends the alarm.
  treat_missing_data = "ignore"
}

resource "aws_cloudwatch_metric_alarm" "missing" {
  alarm_name        = "${var.name}-missing"
  alarm_description = <<-TEXT
    CRITICAL: There has been no etcd backup of ${var.cluster_name} for ${var.hours_without_backup} hours.

    Impact: what changed since the last one would be lost with the cluster.

    First steps: is the alarm ${var.name}-failed red? If not, the function does not run or does not come to its end: look at the rule ${aws_cloudwatch_event_rule.schedule.name}, and at the function's errors, throttles and duration.
  TEXT
  alarm_actions     = [var.topic_arn]
  ok_actions        = [var.topic_arn]
  tags              = var.tags

  # With FILL every hour without a run counts as an hour without a success, at once. Without it, CloudWatch would first reach
  # further back for real data. All hours have to be without a success.
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  evaluation_periods  = var.hours_without_backup
  datapoints_to_alarm = var.hours_without_backup
  # For a function that has never published anything, where it is not documented that FILL does.
  treat_missing_data = "breaching"

  metric_query {
    id = "backups"

    metric {
      namespace   = "K8sCluster/EtcdBackup"
      metric_name = "BackupSuccess"
      dimensions  = local.dimensions
      stat        = "Sum"
      period      = 3600
    }
  }

  metric_query {
    id          = "result"
    expression  = "FILL(backups,0)"
    label       = "backups"
    return_data = true
  }
}
