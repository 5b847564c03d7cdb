# What the template promises. The first run applies; the others plan.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_data "aws_region" {
    defaults = { id = "eu-central-1", name = "eu-central-1" }
  }

  mock_resource "aws_cloudformation_stack" {
    defaults = { outputs = { FunctionArn = "arn:aws:lambda:eu-central-1:123456789012:function:etcd-backup" } }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/etcd-backup" }
  }

  mock_resource "aws_cloudwatch_event_rule" {
    defaults = { arn = "arn:aws:events:eu-central-1:123456789012:rule/etcd-backup" }
  }
}

variables {
  cluster_name        = "prod-1"
  control_plane_group = "prod-1-control-plane"
  backup_bucket       = "prod-1-backups"
  backup_prefix       = "etcd/"
  topic_arn           = "arn:aws:sns:eu-central-1:123456789012:alerts"
}

run "deploys_the_function" {
  assert {
    condition     = length(aws_cloudformation_stack.function.template_body) <= 51200
    error_message = "The template fits into one call."
  }

  assert {
    condition = (
      jsondecode(aws_cloudformation_stack.function.template_body).Resources.Function.Properties.Code.ZipFile == file("etcd_backup.inline.txt")
      && jsondecode(aws_cloudformation_stack.function.template_body).Resources.Function.Properties.Handler == "index.handler"
    )
    error_message = "The source stands in the template, as the file index.py."
  }

  assert {
    condition     = jsondecode(aws_cloudformation_stack.function.template_body).Resources.Function.Properties.Timeout == 690
    error_message = "The function may run longer than the backup."
  }

  assert {
    condition     = aws_cloudwatch_log_group.function.retention_in_days == 30
    error_message = "Log lines are not kept for ever."
  }

  assert {
    condition = (
      aws_cloudwatch_event_target.function.arn == aws_cloudformation_stack.function.outputs["FunctionArn"]
      && aws_lambda_permission.schedule.source_arn == aws_cloudwatch_event_rule.schedule.arn
      && aws_lambda_permission.schedule.principal == "events.amazonaws.com"
    )
    error_message = "The schedule, and only the schedule, may start the function."
  }

  assert {
    condition = toset(flatten([for each in jsondecode(aws_iam_role_policy.function.policy).Statement : each.Action])) == toset([
      "autoscaling:DescribeAutoScalingGroups", "ssm:SendCommand", "ssm:GetCommandInvocation", "ssm:CancelCommand",
      "s3:GetObject", "s3:ListBucket", "logs:CreateLogStream", "logs:PutLogEvents",
    ])
    error_message = "The role may do what the README lists, and nothing else."
  }

  assert {
    condition = alltrue([
      for each in jsondecode(aws_iam_role_policy.function.policy).Statement :
      contains(["autoscaling:DescribeAutoScalingGroups"], try(tostring(each.Action), "")) || each.Sid == "FollowCommands" || each.Resource != "*"
    ])
    error_message = "Only what knows no resources is allowed on all of them."
  }

  assert {
    condition = one([
      for each in jsondecode(aws_iam_role_policy.function.policy).Statement :
      each.Condition.StringEquals["ssm:resourceTag/aws:autoscaling:groupName"] if each.Sid == "OnTheControlPlaneOnly"
    ]) == "prod-1-control-plane"
    error_message = "Commands may be run on the control plane only."
  }
}

run "watches_the_function" {
  command = plan

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.failed.namespace == "K8sCluster/EtcdBackup"
      && aws_cloudwatch_metric_alarm.failed.metric_name == "BackupFailure"
      && aws_cloudwatch_metric_alarm.failed.dimensions == tomap({ ClusterName = "prod-1", FunctionName = "etcd-backup" })
      && aws_cloudwatch_metric_alarm.failed.treat_missing_data == "ignore"
      && aws_cloudwatch_metric_alarm.failed.threshold == 1
      && aws_cloudwatch_metric_alarm.failed.alarm_actions == toset(["arn:aws:sns:eu-central-1:123456789012:alerts"])
    )
    error_message = "A failed backup raises an alarm that stays until a backup succeeds."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.missing.evaluation_periods == 24
      && aws_cloudwatch_metric_alarm.missing.datapoints_to_alarm == 24
      && aws_cloudwatch_metric_alarm.missing.comparison_operator == "LessThanThreshold"
      && aws_cloudwatch_metric_alarm.missing.treat_missing_data == "breaching"
      && one([for query in aws_cloudwatch_metric_alarm.missing.metric_query : query.expression if query.return_data == true]) == "FILL(backups,0)"
      && one(flatten([for query in aws_cloudwatch_metric_alarm.missing.metric_query : [for metric in query.metric : metric.metric_name]])) == "BackupSuccess"
      && one(flatten([for query in aws_cloudwatch_metric_alarm.missing.metric_query : [for metric in query.metric : metric.period]])) == 3600
    )
    error_message = "A day without a backup raises an alarm, also when nothing runs."
  }
}

run "refuses_what_cannot_work" {
  command = plan

  variables {
    name                   = "etcd backup"
    cluster_name           = "prod 1"
    control_plane_group    = ""
    backup_bucket          = "Backups"
    backup_prefix          = "/etcd"
    backup_command         = " "
    backup_timeout_seconds = 900
    schedule               = "hourly"
    hours_without_backup   = 169
    topic_arn              = "alerts"
    log_retention_days     = 31
  }

  expect_failures = [
    var.name, var.cluster_name, var.control_plane_group, var.backup_bucket, var.backup_prefix, var.backup_command,
    var.backup_timeout_seconds, var.schedule, var.hours_without_backup, var.topic_arn, var.log_retention_days,
  ]
}
