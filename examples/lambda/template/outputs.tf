output "function_arn" {
  description = "ARN of the function."
  value       = aws_cloudformation_stack.function.outputs["FunctionArn"]
}

output "log_group_name" {
  description = "Where the function's log lines and metrics go."
  value       = aws_cloudwatch_log_group.function.name
}

output "alarm_arns" {
  description = "ARNs of both alarms, for a composite alarm or a dashboard."
  value       = { failed = aws_cloudwatch_metric_alarm.failed.arn, missing = aws_cloudwatch_metric_alarm.missing.arn }
}

output "template" {
  description = "The CloudFormation template with the function's source."
  value       = local.template
}
