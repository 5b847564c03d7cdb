# What the module promises, by the number of the requirement: 2 alarms, 3 descriptions, 4 topics, 5 dashboards, 6 policy.
# Requirement 1, the shape of the module, is checked by tests/infra. The first run applies; the others plan over its state.

mock_provider "aws" {
  source = "./tests/mocks"
}

override_resource {
  target = aws_sns_topic.this["critical"]
  values = { arn = "arn:aws:sns:eu-central-1:123456789012:retainwise-cloudwatch-alerts" }
}

variables {
  queue_name      = "predictions"
  dlq_name        = "predictions-dlq"
  critical_emails = ["oncall@example.com", "second@example.com"]
}

run "criterion_2_alarms" {
  assert {
    condition = toset([for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_name]) == toset([
      "retainwise-sqs-queue-depth-high", "retainwise-dlq-messages-present", "retainwise-sqs-message-age-high",
      "retainwise-worker-error-rate-high", "retainwise-prediction-processing-slow", "retainwise-s3-upload-failures",
      "retainwise-database-write-errors", "retainwise-api-upload-success-rate-low", "retainwise-model-confidence-low",
      "retainwise-model-load-failures", "retainwise-worker-heartbeat-missing", "retainwise-metrics-dropped",
      "retainwise-alert-delivery-failed",
    ])
    error_message = "2. The thirteen alarms have the names that operators type."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].comparison_operator == "GreaterThanThreshold"
      && aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].threshold == 10
      && aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].statistic == "Maximum"
      && aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].period * aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].evaluation_periods == 300
      && aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].datapoints_to_alarm == aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].evaluation_periods
      && aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].treat_missing_data == "ignore"
      && aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].dimensions == tomap({ QueueName = "predictions" })
      && aws_cloudwatch_metric_alarm.this["sqs-queue-depth-high"].tags["Severity"] == "critical"
    )
    error_message = "2. sqs-queue-depth-high: more than 10 messages for 5 minutes, critical."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["dlq-messages-present"].comparison_operator == "GreaterThanThreshold"
      && aws_cloudwatch_metric_alarm.this["dlq-messages-present"].threshold == 0
      && aws_cloudwatch_metric_alarm.this["dlq-messages-present"].evaluation_periods == 1
      && aws_cloudwatch_metric_alarm.this["dlq-messages-present"].metric_name == "ApproximateNumberOfMessagesVisible"
      && aws_cloudwatch_metric_alarm.this["dlq-messages-present"].treat_missing_data == "ignore"
      && aws_cloudwatch_metric_alarm.this["dlq-messages-present"].dimensions == tomap({ QueueName = "predictions-dlq" })
      && aws_cloudwatch_metric_alarm.this["dlq-messages-present"].tags["Severity"] == "critical"
    )
    error_message = "2. dlq-messages-present: more than 0 messages, critical, and red until the queue is empty."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["sqs-message-age-high"].metric_name == "ApproximateAgeOfOldestMessage"
      && aws_cloudwatch_metric_alarm.this["sqs-message-age-high"].threshold == 900
      && aws_cloudwatch_metric_alarm.this["sqs-message-age-high"].treat_missing_data == "notBreaching"
    )
    error_message = "2. sqs-message-age-high: older than 900 s; SQS reports no age for an empty queue, which is fine."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["worker-error-rate-high"].comparison_operator == "GreaterThanThreshold"
      && aws_cloudwatch_metric_alarm.this["worker-error-rate-high"].threshold == 5
      && aws_cloudwatch_metric_alarm.this["worker-error-rate-high"].evaluation_periods == 2
      && aws_cloudwatch_metric_alarm.this["worker-error-rate-high"].datapoints_to_alarm == 2
      && alltrue([for query in aws_cloudwatch_metric_alarm.this["worker-error-rate-high"].metric_query : alltrue([for metric in query.metric : metric.period == 300 && metric.stat == "Sum"])])
      && one([for query in aws_cloudwatch_metric_alarm.this["worker-error-rate-high"].metric_query : query.expression if query.return_data == true])
      == "IF(FILL(failed,0)+FILL(done,0) >= 5, 100*FILL(failed,0)/(FILL(failed,0)+FILL(done,0)), 0)"
      && toset(flatten([for query in aws_cloudwatch_metric_alarm.this["worker-error-rate-high"].metric_query : [for metric in query.metric : "${metric.namespace}/${metric.metric_name}"]]))
      == toset(["RetainWise/Worker/WorkerFailure", "RetainWise/Worker/WorkerSuccess"])
    )
    error_message = "2. worker-error-rate-high: more than 5 % of all jobs for 10 minutes, with FILL and a minimum volume of 5."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["prediction-processing-slow"].extended_statistic == "p95"
      && aws_cloudwatch_metric_alarm.this["prediction-processing-slow"].comparison_operator == "GreaterThanThreshold"
      && aws_cloudwatch_metric_alarm.this["prediction-processing-slow"].threshold == 300
      && aws_cloudwatch_metric_alarm.this["prediction-processing-slow"].metric_name == "WorkerEndToEndDuration"
      && aws_cloudwatch_metric_alarm.this["prediction-processing-slow"].namespace == "RetainWise/Worker"
      && aws_cloudwatch_metric_alarm.this["prediction-processing-slow"].evaluate_low_sample_count_percentiles == "evaluate"
    )
    error_message = "2. prediction-processing-slow: p95 above 300 s, at low volume too."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["s3-upload-failures"].threshold == 5
      && one([for query in aws_cloudwatch_metric_alarm.this["s3-upload-failures"].metric_query : query.expression if query.return_data == true])
      == "IF(FILL(failed,0)+FILL(stored,0) >= 5, 100*FILL(failed,0)/(FILL(failed,0)+FILL(stored,0)), 0)"
      && toset(flatten([for query in aws_cloudwatch_metric_alarm.this["s3-upload-failures"].metric_query : [for metric in query.metric : "${metric.metric_name} ${metric.stat}"]]))
      == toset(["S3UploadFailure Sum", "S3UploadDuration SampleCount"])
    )
    error_message = "2. s3-upload-failures: more than 5 % of all files, with FILL and a minimum volume."
  }

  assert {
    condition = alltrue([for key in ["database-write-errors", "model-load-failures", "metrics-dropped"] :
      aws_cloudwatch_metric_alarm.this[key].comparison_operator == "GreaterThanOrEqualToThreshold"
      && aws_cloudwatch_metric_alarm.this[key].threshold == 1
      && can(regex("^FILL\\([a-z]+,0\\)$", one([for query in aws_cloudwatch_metric_alarm.this[key].metric_query : query.expression if query.return_data == true])))
    ])
    error_message = "2. Counters that must be 0 raise their alarm at 1, and FILL lets it end."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["api-upload-success-rate-low"].comparison_operator == "LessThanThreshold"
      && aws_cloudwatch_metric_alarm.this["api-upload-success-rate-low"].threshold == 95
      && aws_cloudwatch_metric_alarm.this["api-upload-success-rate-low"].evaluation_periods == 2
      && alltrue([for query in aws_cloudwatch_metric_alarm.this["api-upload-success-rate-low"].metric_query : alltrue([for metric in query.metric : metric.period == 300])])
      && one([for query in aws_cloudwatch_metric_alarm.this["api-upload-success-rate-low"].metric_query : query.expression if query.return_data == true])
      == "IF(FILL(stored,0)+FILL(failed,0) >= 5, 100*FILL(stored,0)/(FILL(stored,0)+FILL(failed,0)), 100)"
      && !contains(flatten([for query in aws_cloudwatch_metric_alarm.this["api-upload-success-rate-low"].metric_query : query.metric[*].metric_name]), "UploadRejected")
    )
    error_message = "2. api-upload-success-rate-low: below 95 % for 10 minutes, counting server faults only; an idle API is fine."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["model-confidence-low"].comparison_operator == "LessThanThreshold"
      && aws_cloudwatch_metric_alarm.this["model-confidence-low"].threshold == 0.7
      && aws_cloudwatch_metric_alarm.this["model-confidence-low"].statistic == "Average"
    )
    error_message = "2. model-confidence-low: mean below 0.7."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.this["worker-heartbeat-missing"].comparison_operator == "LessThanThreshold"
      && aws_cloudwatch_metric_alarm.this["worker-heartbeat-missing"].threshold == 1
      && aws_cloudwatch_metric_alarm.this["worker-heartbeat-missing"].treat_missing_data == "breaching"
      && aws_cloudwatch_metric_alarm.this["worker-heartbeat-missing"].evaluation_periods == 5
      && aws_cloudwatch_metric_alarm.this["worker-heartbeat-missing"].datapoints_to_alarm == 5
      && alltrue([for query in aws_cloudwatch_metric_alarm.this["worker-heartbeat-missing"].metric_query : alltrue([for metric in query.metric : metric.period == 60])])
      && one([for query in aws_cloudwatch_metric_alarm.this["worker-heartbeat-missing"].metric_query : query.expression if query.return_data == true]) == "FILL(beats,0)"
    )
    error_message = "2. worker-heartbeat-missing: five periods of 60 s after the last beat; FILL makes it five exactly."
  }

  assert {
    condition = (
      aws_cloudwatch_composite_alarm.this["service-outage"].alarm_name == "retainwise-service-outage"
      && aws_cloudwatch_composite_alarm.this["service-outage"].alarm_rule == join(" OR ", [
        "ALARM(\"retainwise-database-write-errors\")", "ALARM(\"retainwise-model-load-failures\")", "ALARM(\"retainwise-sqs-message-age-high\")",
        "ALARM(\"retainwise-sqs-queue-depth-high\")", "ALARM(\"retainwise-worker-heartbeat-missing\")",
      ])
      && one(aws_cloudwatch_composite_alarm.this["service-outage"].alarm_actions) == "arn:aws:sns:eu-central-1:123456789012:retainwise-cloudwatch-alerts"
    )
    error_message = "2. service-outage mails once for its members."
  }

  assert {
    condition = alltrue([for key, alarm in aws_cloudwatch_metric_alarm.this :
      contains(var.outage_members, key) == (length(coalesce(alarm.alarm_actions, [])) == 0)
    ])
    error_message = "2. A member of the outage mails through the composite only, every other alarm by itself."
  }

  assert {
    condition = (
      length(coalesce(aws_cloudwatch_composite_alarm.this["service-health"].alarm_actions, [])) == 0
      && length(coalesce(aws_cloudwatch_composite_alarm.this["service-health"].ok_actions, [])) == 0
      && length(split(" OR ", aws_cloudwatch_composite_alarm.this["service-health"].alarm_rule)) == length([for alarm in output.alarms : alarm if alarm.severity == "critical"])
    )
    error_message = "2. service-health is the OR of the critical alarms, and mails nobody."
  }
}

run "criterion_3_descriptions" {
  command = plan

  assert {
    condition = alltrue([for key, alarm in aws_cloudwatch_metric_alarm.this :
      can(regex("^(CRITICAL|WARNING): [A-Z][^\n]+\\.\n\nCondition: [^\n]+\\.\n\nImpact: [^\n]+\\.\n\nFirst steps: [^\n]+\\.\n\nRunbook: https://[^\n]+#${key}$", alarm.alarm_description))
      && length(alarm.alarm_description) < 1024
    ])
    error_message = "3. A description says severity, one sentence, condition, impact, first steps and runbook, in fewer than 1024 characters."
  }

  assert {
    condition = alltrue([for key, alarm in aws_cloudwatch_metric_alarm.this :
      startswith(alarm.alarm_description, "${upper(alarm.tags["Severity"])}:") && strcontains(alarm.alarm_description, " ${alarm.threshold}")
    ])
    error_message = "3. Severity and threshold of a description are those of its alarm."
  }

  assert {
    condition = alltrue([for key, alarm in aws_cloudwatch_composite_alarm.this :
      can(regex("^CRITICAL: [^\n]+\n\nCondition: [^\n]+\n\nImpact: [^\n]+\n\nFirst steps: [^\n]+\n\nRunbook: https://[^\n]+#${key}$", alarm.alarm_description))
      && length(alarm.alarm_description) < 1024
    ])
    error_message = "3. The composites' descriptions have the same parts."
  }
}

run "criterion_4_topics" {
  command = plan

  assert {
    condition     = aws_sns_topic.this["critical"].name == "retainwise-cloudwatch-alerts" && length(aws_sns_topic.this) == 1
    error_message = "4. The topic is retainwise-cloudwatch-alerts; without warning_emails it is the only one."
  }

  assert {
    condition = (
      toset([for subscription in aws_sns_topic_subscription.email : subscription.endpoint]) == toset(var.critical_emails)
      && alltrue([for subscription in aws_sns_topic_subscription.email : subscription.protocol == "email"])
      && length(aws_sns_topic_subscription.https) == 0
    )
    error_message = "4. Each address has a subscription, and nobody else."
  }

  assert {
    condition     = aws_sns_topic.this["critical"].kms_master_key_id == null && length(aws_kms_key.this) == 0
    error_message = "4. Encryption is none by default."
  }

  assert {
    condition = jsondecode(aws_sns_topic_policy.this["critical"].policy).Statement == [{
      Sid       = "AlarmsOfThisModule"
      Effect    = "Allow"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Action    = "sns:Publish"
      Resource  = "arn:aws:sns:eu-central-1:123456789012:retainwise-cloudwatch-alerts"
      Condition = {
        StringEquals = { "aws:SourceAccount" = "123456789012" }
        ArnLike      = { "aws:SourceArn" = "arn:aws:cloudwatch:eu-central-1:123456789012:alarm:retainwise-*" }
      }
    }]
    error_message = "4. Only alarms of this account with this prefix may publish to the topic."
  }

  assert {
    condition = (
      aws_sqs_queue.undelivered[0].message_retention_seconds == 14 * 86400
      && aws_sqs_queue.undelivered[0].sqs_managed_sse_enabled == true
      && alltrue([for subscription in aws_sns_topic_subscription.email : jsondecode(subscription.redrive_policy).deadLetterTargetArn == aws_sqs_queue.undelivered[0].arn])
      && jsondecode(aws_sqs_queue.undelivered[0].policy).Statement[0].Condition.ArnEquals["aws:SourceArn"] == ["arn:aws:sns:eu-central-1:123456789012:retainwise-cloudwatch-alerts"]
    )
    error_message = "4. What cannot be delivered is kept for 14 days in a queue that only the topic may write to."
  }

  assert {
    condition = alltrue([for tags in concat(
      [for alarm in aws_cloudwatch_metric_alarm.this : alarm.tags],
      [for alarm in aws_cloudwatch_composite_alarm.this : alarm.tags],
      [for topic in aws_sns_topic.this : topic.tags],
      [for queue in aws_sqs_queue.undelivered : queue.tags],
    ) : tags["Project"] == "RetainWise" && tags["ManagedBy"] == "terraform"])
    error_message = "4. Everything that can have tags has them."
  }

  assert {
    condition     = alltrue([for key, alarm in aws_cloudwatch_metric_alarm.this : alarm.ok_actions == alarm.alarm_actions])
    error_message = "4. Recovery is mailed to whom the alarm was mailed."
  }
}

run "criterion_5_dashboards" {
  command = plan

  assert {
    condition     = toset([for dashboard in aws_cloudwatch_dashboard.this : dashboard.dashboard_name]) == toset(["retainwise-realtime", "retainwise-trend"])
    error_message = "5. There are two dashboards."
  }

  assert {
    condition = (
      jsondecode(aws_cloudwatch_dashboard.this["realtime"].dashboard_body).start == "-PT3H"
      && jsondecode(aws_cloudwatch_dashboard.this["trend"].dashboard_body).start == "-P7D"
    )
    error_message = "5. Real time shows three hours, trend shows seven days."
  }

  assert {
    condition = alltrue([for dashboard in aws_cloudwatch_dashboard.this : alltrue([
      for key, alarm in aws_cloudwatch_metric_alarm.this : contains(
        [for widget in jsondecode(dashboard.dashboard_body).widgets : try(widget.properties.annotations.horizontal[0].value, null) if try(widget.properties.title, "") == key && try(widget.properties.view, "") == "timeSeries"],
        alarm.threshold,
      )
    ])])
    error_message = "5. Each alarm has a graph with its threshold drawn in, on both dashboards."
  }

  assert {
    condition = alltrue([for dashboard in aws_cloudwatch_dashboard.this : alltrue([
      for key, alarm in aws_cloudwatch_metric_alarm.this : strcontains(dashboard.dashboard_body, "/docs/runbooks.md#${key})")
    ])])
    error_message = "5. Each runbook is linked from both dashboards."
  }

  assert {
    condition = alltrue([for dashboard in aws_cloudwatch_dashboard.this : toset(flatten([
      for widget in jsondecode(dashboard.dashboard_body).widgets : [for line in widget.properties.metrics : line[length(line) - 1].stat]
      if try(widget.properties.title, "") == "prediction-processing-slow" && try(widget.properties.view, "") == "timeSeries"
    ])) == toset(["p50", "p95", "p99"])])
    error_message = "5. Processing time shows p50, p95 and p99."
  }

  assert {
    condition = alltrue([for dashboard in aws_cloudwatch_dashboard.this : contains(
      [for widget in jsondecode(dashboard.dashboard_body).widgets : length(widget.properties.alarms) if widget.type == "alarm"], 13,
    )])
    error_message = "5. The state of every alarm is shown on both dashboards."
  }
}

run "criterion_6_publisher_policy" {
  command = plan

  assert {
    condition = jsondecode(output.publisher_policy_json).Statement == [{
      Sid      = "PublishRetainWiseMetrics"
      Effect   = "Allow"
      Action   = "cloudwatch:PutMetricData"
      Resource = "*"
      Condition = {
        StringEquals = { "cloudwatch:namespace" = ["RetainWise/API", "RetainWise/Database", "RetainWise/MLPipeline", "RetainWise/Metrics", "RetainWise/Worker"] }
      }
    }]
    error_message = "6. Publishers may put metrics into the namespaces of RetainWise, and nothing else."
  }
}
