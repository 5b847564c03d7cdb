# The way from an alarm to a mailbox.

locals {
  # Role => name. Without a second topic warnings go to the critical one.
  topic_names = merge(
    { critical = try(element(split(":", var.existing_topic_arns.critical), 5), "${var.name_prefix}-cloudwatch-alerts") },
    { for role in ["warning"] : role => try(element(split(":", var.existing_topic_arns.warning), 5), "${var.name_prefix}-cloudwatch-warnings") if local.has_warning_topic },
  )
  has_warning_topic = length(var.warning_emails) > 0 || var.existing_topic_arns.warning != null
  created_topics    = { for role, name in local.topic_names : role => name if var.existing_topic_arns[role] == null }

  topic_arns = { for role, name in local.topic_names : role => try(aws_sns_topic.this[role].arn, var.existing_topic_arns[role]) }
  actions = {
    critical = [local.topic_arns["critical"]]
    warning  = [try(local.topic_arns["warning"], local.topic_arns["critical"])]
    # Whether alerts are delivered is told to every topic, so that one can report the other.
    every = distinct(values(local.topic_arns))
  }

  email_subscriptions = {
    for subscription in concat(
      [for email in var.critical_emails : { role = "critical", email = email }],
      [for email in var.warning_emails : { role = "warning", email = email }],
    ) : "${subscription.role}/${subscription.email}" => subscription
  }
  has_https_endpoint = nonsensitive(var.https_endpoint != null)

  redrive_policy = one([for queue in aws_sqs_queue.undelivered : jsonencode({ deadLetterTargetArn = queue.arn })])

  topic_policies = { for role, arn in local.topic_arns : role => jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "AlarmsOfThisModule"
      Effect    = "Allow"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Action    = "sns:Publish"
      Resource  = arn
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnLike      = { "aws:SourceArn" = "${local.alarm_arn_prefix}${var.name_prefix}-*" }
      }
    }]
  }) }
}

resource "aws_sns_topic" "this" {
  for_each = local.created_topics

  name              = each.value
  display_name      = "RetainWise alerts"
  kms_master_key_id = local.kms_key_arn
  tags              = local.tags

  lifecycle {
    precondition {
      condition     = each.key != "critical" || length(var.critical_emails) > 0 || local.has_https_endpoint
      error_message = "critical_emails is empty and there is no https_endpoint: alarms would reach nobody. Name an address, or pass a topic that has subscribers in existing_topic_arns."
    }
  }
}

resource "aws_sns_topic_policy" "this" {
  for_each = local.created_topics

  arn    = aws_sns_topic.this[each.key].arn
  policy = local.topic_policies[each.key]
}

resource "aws_sns_topic_subscription" "email" {
  for_each = local.email_subscriptions

  topic_arn      = local.topic_arns[each.value.role]
  protocol       = "email"
  endpoint       = each.value.email
  redrive_policy = local.redrive_policy
}

resource "aws_sns_topic_subscription" "https" {
  count = local.has_https_endpoint ? 1 : 0

  topic_arn              = local.topic_arns["critical"]
  protocol               = "https"
  endpoint               = var.https_endpoint
  endpoint_auto_confirms = true
  redrive_policy         = local.redrive_policy
}

resource "aws_sqs_queue" "undelivered" {
  count = var.subscription_dlq_enabled ? 1 : 0

  name                      = local.undelivered_name
  message_retention_seconds = 1209600 # 14 days, the most that SQS keeps
  sqs_managed_sse_enabled   = true
  tags                      = local.tags

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "UndeliveredAlerts"
      Effect    = "Allow"
      Principal = { Service = "sns.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = "arn:${local.partition}:sqs:${local.region}:${local.account}:${local.undelivered_name}"
      Condition = { ArnEquals = { "aws:SourceArn" = local.subscribed_topic_arns } }
    }]
  })
}

locals {
  undelivered_name = "${var.name_prefix}-undelivered-alerts"

  # Written out instead of read from the topics, so that the queue, which is slow to create, need not wait for them.
  subscribed_topic_arns = [
    for role, name in local.topic_names :
    try(coalesce(var.existing_topic_arns[role]), "arn:${local.partition}:sns:${local.region}:${local.account}:${name}")
  ]
}
