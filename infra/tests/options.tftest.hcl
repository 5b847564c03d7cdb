# What the settings change.

mock_provider "aws" {
  source = "./tests/mocks"
}

override_resource {
  target = aws_sns_topic.this["critical"]
  values = { arn = "arn:aws:sns:eu-central-1:123456789012:retainwise-cloudwatch-alerts" }
}

override_resource {
  target = aws_sns_topic.this["warning"]
  values = { arn = "arn:aws:sns:eu-central-1:123456789012:retainwise-cloudwatch-warnings" }
}

variables {
  queue_name      = "predictions"
  dlq_name        = "predictions-dlq"
  critical_emails = ["oncall@example.com"]
}

run "two_topics" {
  variables {
    warning_emails = ["team@example.com"]
  }

  assert {
    condition     = aws_sns_topic.this["warning"].name == "retainwise-cloudwatch-warnings" && aws_sns_topic_subscription.email["warning/team@example.com"].topic_arn == aws_sns_topic.this["warning"].arn
    error_message = "Warnings have their own topic and subscribers."
  }

  assert {
    condition     = one(aws_cloudwatch_metric_alarm.this["model-confidence-low"].alarm_actions) == aws_sns_topic.this["warning"].arn && one(aws_cloudwatch_metric_alarm.this["dlq-messages-present"].alarm_actions) == aws_sns_topic.this["critical"].arn
    error_message = "An alarm goes to the topic of its severity."
  }

  assert {
    condition = (
      toset(aws_cloudwatch_metric_alarm.this["alert-delivery-failed"].alarm_actions) == toset([aws_sns_topic.this["critical"].arn, aws_sns_topic.this["warning"].arn])
      && one([for query in aws_cloudwatch_metric_alarm.this["alert-delivery-failed"].metric_query : query.expression if query.return_data == true]) == "FILL(failed_critical,0)+FILL(failed_warning,0)"
    )
    error_message = "That alerts of one topic are not delivered is told to both."
  }
}

run "existing_topics" {
  variables {
    critical_emails     = []
    existing_topic_arns = { critical = "arn:aws:sns:eu-central-1:123456789012:theirs", warning = "arn:aws:sns:eu-central-1:123456789012:theirs-too" }
  }

  assert {
    condition     = length(aws_sns_topic.this) == 0 && length(aws_sns_topic_policy.this) == 0 && length(aws_sns_topic_subscription.email) == 0
    error_message = "Topics of others are used, not changed."
  }

  assert {
    condition = (
      one(aws_cloudwatch_composite_alarm.this["service-outage"].alarm_actions) == "arn:aws:sns:eu-central-1:123456789012:theirs"
      && one(aws_cloudwatch_metric_alarm.this["metrics-dropped"].alarm_actions) == "arn:aws:sns:eu-central-1:123456789012:theirs-too"
      && contains(flatten([for query in aws_cloudwatch_metric_alarm.this["alert-delivery-failed"].metric_query : [for metric in query.metric : metric.dimensions.TopicName]]), "theirs-too")
      && jsondecode(output.topic_policy_json["critical"]).Statement[0].Resource == "arn:aws:sns:eu-central-1:123456789012:theirs"
    )
    error_message = "Alarms go to the given topics and watch their delivery; the policy they need is an output."
  }
}

run "created_key" {
  variables {
    encryption = { mode = "create" }
  }

  assert {
    condition     = aws_sns_topic.this["critical"].kms_master_key_id == aws_kms_key.this[0].arn && aws_kms_key.this[0].enable_key_rotation
    error_message = "The topic is encrypted with the module's own key, which is rotated."
  }

  assert {
    condition = contains(jsondecode(aws_kms_key.this[0].policy).Statement, {
      Sid       = "AlarmsOfThisAccount"
      Effect    = "Allow"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
      Resource  = "*"
      Condition = { StringEquals = { "aws:SourceAccount" = "123456789012" } }
    })
    error_message = "The key admits CloudWatch: without that, alarms mail nobody."
  }

  assert {
    condition     = aws_kms_key.this[0].tags["Project"] == "RetainWise"
    error_message = "The key has tags."
  }
}

run "existing_key" {
  variables {
    encryption = { mode = "existing", kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee" }
  }

  assert {
    condition     = aws_sns_topic.this["critical"].kms_master_key_id == var.encryption.kms_key_arn && length(aws_kms_key.this) == 0
    error_message = "The given key encrypts the topic, and none is made."
  }
}

run "https_endpoint" {
  variables {
    critical_emails = []
    https_endpoint  = "https://events.pagerduty.com/integration/0123456789abcdef/enqueue"
  }

  assert {
    condition     = aws_sns_topic_subscription.https[0].protocol == "https" && aws_sns_topic_subscription.https[0].endpoint == "https://events.pagerduty.com/integration/0123456789abcdef/enqueue"
    error_message = "An endpoint alone is enough of a subscriber."
  }
}

run "without_composites_and_dashboards" {
  variables {
    composites_enabled       = false
    dashboards_enabled       = false
    subscription_dlq_enabled = false
    notify_on_recovery       = false
  }

  assert {
    condition     = length(aws_cloudwatch_composite_alarm.this) == 0 && length(aws_cloudwatch_dashboard.this) == 0 && length(aws_sqs_queue.undelivered) == 0
    error_message = "What is switched off is not created."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : length(alarm.alarm_actions) > 0 && length(coalesce(alarm.ok_actions, [])) == 0])
    error_message = "Without composites every alarm mails by itself; without notify_on_recovery only when it turns red."
  }

  assert {
    condition     = aws_sns_topic_subscription.email["critical/oncall@example.com"].redrive_policy == null && !strcontains(output.alarms["alert-delivery-failed"].description, "undelivered")
    error_message = "Nothing refers to a queue that does not exist."
  }
}

run "overrides" {
  variables {
    name_prefix    = "churn-eu"
    minimum_volume = 20
    tags           = { Owner = "platform", ManagedBy = "stacks" }
    outage_members = ["worker-heartbeat-missing", "sqs-queue-depth-high"]
    alarm_overrides = {
      "sqs-queue-depth-high" = { threshold = 50, period = 120, evaluation_periods = 4, datapoints_to_alarm = 3 }
      "dlq-messages-present" = { severity = "warning" }
      "metrics-dropped"      = { enabled = false }
    }
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].threshold == 50
      && aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].period == 120
      && aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].evaluation_periods == 4
      && aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].datapoints_to_alarm == 3
      && strcontains(aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].alarm_description, "Condition: jobs waiting in the queue > 50 in 3 of 4 periods of 120 s.")
      && strcontains(aws_cloudwatch_dashboard.this["realtime"].dashboard_body, "alarm: \\u003e 50")
    )
    error_message = "A changed number changes the alarm, its description and its graph."
  }

  assert {
    condition     = !contains(keys(aws_cloudwatch_metric_alarm.this), "metrics-dropped") && !strcontains(aws_cloudwatch_dashboard.this["trend"].dashboard_body, "metrics-dropped")
    error_message = "A disabled alarm is gone from everywhere."
  }

  assert {
    condition     = startswith(output.alarms["dlq-messages-present"].description, "WARNING:") && !strcontains(aws_cloudwatch_composite_alarm.this["service-health"].alarm_rule, "dlq-messages-present")
    error_message = "A changed severity changes the description and the health of the service."
  }

  assert {
    condition     = strcontains(one([for query in aws_cloudwatch_metric_alarm.this["worker-error-rate-high"].metric_query : query.expression if query.return_data == true]), ">= 20,")
    error_message = "The minimum volume is part of the rates."
  }

  assert {
    condition     = aws_cloudwatch_composite_alarm.this["service-outage"].alarm_rule == "ALARM(\"churn-eu-sqs-queue-depth-high\") OR ALARM(\"churn-eu-worker-heartbeat-missing\")"
    error_message = "The members of the outage can be chosen."
  }

  assert {
    condition     = aws_sns_topic.this["critical"].name == "churn-eu-cloudwatch-alerts" && aws_sns_topic.this["critical"].tags == tomap({ Project = "RetainWise", ManagedBy = "stacks", Module = "retainwise-metrics", Owner = "platform" })
    error_message = "Names take the prefix; the caller's tags win."
  }
}
