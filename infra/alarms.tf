# Every alarm, once. Graphs, composites, outputs, documentation and tests are made from this map.
#
#   severity       critical: uploads or results are being lost or held up now; warning: look at it during the day
#   subject        what is measured, in words; with the numbers below it makes the alarm's condition
#   metrics        id => series and statistic; without an expression there is exactly one
#   expression     metric math over the ids
#   graph_also     further statistics that the alarm's graph shows
#
# How missing data is treated, and why:
#   - counters of the package are published as 0 while nothing happens, and FILL covers the minutes when nothing is
#     published at all. Without it an alarm keeps looking back to the last minutes that have data, and stays red.
#   - ignore, for the length of a queue: SQS publishes nothing for a queue that nobody touched for hours, which must not
#     turn a red alarm green.
#   - notBreaching, where no data means that nothing happened: durations, the age in an empty queue.
#   - breaching, for the heartbeat alone: it covers a worker that has never run.

locals {
  # Each is 0 or a percentage over a period with enough volume; each upload, file or job is in exactly one of the two.
  rate_template = "IF(FILL(%[1]s,0)+FILL(%[2]s,0) >= %[3]d, 100*FILL(%[1]s,0)/(FILL(%[1]s,0)+FILL(%[2]s,0)), %[4]d)"

  definitions = {
    "sqs-queue-depth-high" = {
      severity            = "critical"
      summary             = "Jobs pile up in the queue of predictions."
      impact              = "customers wait longer for their predictions, and ever longer while this lasts."
      first_steps         = "is worker-heartbeat-missing red? Restart the worker. If not, compare jobs in and jobs done on the dashboard; add workers, or find what slows them."
      subject             = "jobs waiting in the queue"
      unit                = ""
      metrics             = { waiting = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesVisible", dimensions = { QueueName = var.queue_name }, stat = "Maximum" } }
      expression          = null
      graph_also          = []
      comparison          = "GreaterThanThreshold"
      threshold           = 10
      period              = 60
      evaluation_periods  = 5
      datapoints_to_alarm = 5
      treat_missing_data  = "ignore"
    }

    "dlq-messages-present" = {
      severity            = "critical"
      summary             = "At least one job was given up and is in the dead-letter queue."
      impact              = "each message is an upload whose customer gets no result; messages are deleted 14 days after the upload."
      first_steps         = "do not purge. Read a message, find its upload in the worker's log, mend the cause, then run scripts/replay_dlq_messages.py."
      subject             = "messages in the dead-letter queue"
      unit                = ""
      metrics             = { dead = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesVisible", dimensions = { QueueName = var.dlq_name }, stat = "Maximum" } }
      expression          = null
      graph_also          = []
      comparison          = "GreaterThanThreshold"
      threshold           = 0
      period              = 60
      evaluation_periods  = 1
      datapoints_to_alarm = 1
      treat_missing_data  = "ignore"
    }

    "sqs-message-age-high" = {
      severity            = "warning"
      summary             = "The oldest job has waited for too long."
      impact              = "at least one customer has waited this long; a few slow jobs can do it while the queue is short."
      first_steps         = "look at processing times and at the number of messages in flight; the visibility timeout must exceed the slowest job."
      subject             = "age of the oldest waiting job"
      unit                = " s"
      metrics             = { age = { namespace = "AWS/SQS", name = "ApproximateAgeOfOldestMessage", dimensions = { QueueName = var.queue_name }, stat = "Maximum" } }
      expression          = null
      graph_also          = []
      comparison          = "GreaterThanThreshold"
      threshold           = 900 # three times the five minutes that a job may take
      period              = 60
      evaluation_periods  = 5
      datapoints_to_alarm = 5
      treat_missing_data  = "notBreaching"
    }

    "worker-error-rate-high" = {
      severity    = "warning"
      summary     = "Too many jobs fail in the worker."
      impact      = "failed jobs are retried, and end in the dead-letter queue when they fail again."
      first_steps = "look at failures by type on the dashboard. After a deployment: roll back. One type that comes from files: tell product."
      subject     = "failed jobs, of all jobs"
      unit        = " %"
      metrics = {
        failed = merge(local.rollup["WorkerFailure"], { stat = "Sum" })
        done   = merge(local.rollup["WorkerSuccess"], { stat = "Sum" })
      }
      expression          = format(local.rate_template, "failed", "done", var.minimum_volume, 0)
      graph_also          = []
      comparison          = "GreaterThanThreshold"
      threshold           = 5
      period              = 300
      evaluation_periods  = 2
      datapoints_to_alarm = 2
      treat_missing_data  = "notBreaching"
    }

    "prediction-processing-slow" = {
      severity    = "warning"
      summary     = "Jobs take too long from message to saved predictions."
      impact      = "customers wait; jobs near the visibility timeout are handed out twice."
      first_steps = "compare the durations of download, scoring and saving on the dashboard; look at file sizes, CPU and memory of the workers."
      subject     = "95th percentile of processing time"
      unit        = " s"
      metrics     = { duration = merge(local.rollup["WorkerEndToEndDuration"], { stat = "p95" }) }
      expression  = null
      graph_also  = ["p50", "p99"]
      comparison  = "GreaterThanThreshold"
      threshold   = 300
      period      = 300
      # At low volume one large file is a percentile of its own: it takes two periods of three.
      evaluation_periods  = 3
      datapoints_to_alarm = 2
      treat_missing_data  = "notBreaching"
    }

    "s3-upload-failures" = {
      severity    = "critical"
      summary     = "S3 does not take uploaded files, after all retries."
      impact      = "these uploads are refused with an error, and the customer has to upload again."
      first_steps = "look at failures by type: AccessDenied is a change of IAM or KMS, SlowDown or timeouts are S3 itself (see AWS Health)."
      subject     = "files that S3 did not take, of all files"
      unit        = " %"
      metrics = {
        failed = merge(local.rollup["S3UploadFailure"], { stat = "Sum" })
        # A duration is recorded once per stored file, so its sample count is the number of successes.
        stored = merge(local.rollup["S3UploadDuration"], { stat = "SampleCount" })
      }
      expression          = format(local.rate_template, "failed", "stored", var.minimum_volume, 0)
      graph_also          = []
      comparison          = "GreaterThanThreshold"
      threshold           = 5
      period              = 300
      evaluation_periods  = 2
      datapoints_to_alarm = 2
      treat_missing_data  = "notBreaching"
    }

    "database-write-errors" = {
      severity            = "critical"
      summary             = "Predictions could not be written to the database, after all retries."
      impact              = "finished predictions are lost until their job is run again."
      first_steps         = "look at connections, disk, locks and failover of the database; when it is well again, replay the dead-letter queue."
      subject             = "failed writes of predictions"
      unit                = ""
      metrics             = { errors = merge(local.rollup["DatabaseWriteError"], { stat = "Sum" }) }
      expression          = "FILL(errors,0)"
      graph_also          = []
      comparison          = "GreaterThanOrEqualToThreshold"
      threshold           = 1
      period              = 300
      evaluation_periods  = 1
      datapoints_to_alarm = 1
      treat_missing_data  = "notBreaching"
    }

    "api-upload-success-rate-low" = {
      severity    = "critical"
      summary     = "Too many uploads fail on our side."
      impact      = "customers see errors and cannot hand in their files."
      first_steps = "look at failures by type; is s3-upload-failures red, does the queue take messages? After a deployment: roll back."
      subject     = "successful uploads, of those that were not the customer's mistake"
      unit        = " %"
      metrics = {
        stored = merge(local.rollup["UploadSuccess"], { stat = "Sum" })
        # UploadRejected is missing on purpose: a bad file is no fault of the service.
        failed = merge(local.rollup["UploadFailure"], { stat = "Sum" })
      }
      expression          = format(local.rate_template, "stored", "failed", var.minimum_volume, 100)
      graph_also          = []
      comparison          = "LessThanThreshold"
      threshold           = 95
      period              = 300
      evaluation_periods  = 2
      datapoints_to_alarm = 2
      treat_missing_data  = "notBreaching"
    }

    "model-confidence-low" = {
      severity    = "warning"
      summary     = "The model is less sure of its predictions than it used to be."
      impact      = "predictions are still made, but are worth less; drift of the data is the usual cause."
      first_steps = "compare model versions on the dashboard; look for a changed file format or a new kind of customer; roll the model back if it is new."
      subject     = "mean confidence of predictions"
      unit        = ""
      metrics     = { confidence = merge(local.rollup["PredictionConfidence"], { stat = "Average" }) }
      expression  = null
      graph_also  = ["p10", "p50"]
      comparison  = "LessThanThreshold"
      threshold   = 0.7
      # Drift is slow, and one odd file must not raise it: three quarters of an hour.
      period              = 900
      evaluation_periods  = 3
      datapoints_to_alarm = 3
      treat_missing_data  = "notBreaching"
    }

    "model-load-failures" = {
      severity            = "critical"
      summary             = "A worker could not load the model."
      impact              = "this worker makes no predictions; if all are affected, nobody does."
      first_steps         = "look at failures by type: is the file missing or damaged, does its version fit the code, is there memory? Roll back the model or the code."
      subject             = "failed loads of the model"
      unit                = ""
      metrics             = { errors = merge(local.rollup["ModelLoadFailure"], { stat = "Sum" }) }
      expression          = "FILL(errors,0)"
      graph_also          = []
      comparison          = "GreaterThanOrEqualToThreshold"
      threshold           = 1
      period              = 300
      evaluation_periods  = 1
      datapoints_to_alarm = 1
      treat_missing_data  = "notBreaching"
    }

    "worker-heartbeat-missing" = {
      severity    = "critical"
      summary     = "No worker has shown a sign of life."
      impact      = "no uploads are being turned into predictions; they wait in the queue."
      first_steps = "are worker processes running? If they are, and jobs are being done, it is the way of the metrics: credentials, network, namespace."
      subject     = "heartbeats of all workers together"
      unit        = ""
      metrics     = { beats = merge(local.rollup["WorkerHeartbeat"], { stat = "Sum" }) }
      # With FILL it fires five minutes after the last beat. Without it, CloudWatch first reaches further back for real
      # data, by a number of periods that is not documented.
      expression          = "FILL(beats,0)"
      graph_also          = []
      comparison          = "LessThanThreshold"
      threshold           = 1
      period              = 60
      evaluation_periods  = 5
      datapoints_to_alarm = 5
      treat_missing_data  = "breaching"
    }

    "metrics-dropped" = {
      severity    = "warning"
      summary     = "The metrics client drops measurements."
      impact      = "graphs and alarms show less than happens."
      first_steps = "read the reason in the log of retainwise_metrics or in stats().dropped; permission, throttling and a full backlog are the usual ones."
      subject     = "dropped measurements"
      unit        = ""
      metrics     = { dropped = merge(local.rollup["MetricsDropped"], { stat = "Sum" }) }
      expression  = "FILL(dropped,0)"
      graph_also  = []
      comparison  = "GreaterThanOrEqualToThreshold"
      threshold   = 1
      period      = 300
      # A restart may drop a few at its deadline; a quarter of an hour of drops is a fault.
      evaluation_periods  = 3
      datapoints_to_alarm = 3
      treat_missing_data  = "notBreaching"
    }

    "alert-delivery-failed" = {
      severity    = "warning"
      summary     = "SNS could not deliver alerts to a subscriber."
      impact      = "somebody who should know of an alarm does not."
      first_steps = "${var.subscription_dlq_enabled ? "read the undelivered alerts in the queue ${local.undelivered_name}; " : ""}look for a bounced mailbox, an unconfirmed subscription or an endpoint that answers with errors."
      subject     = "alerts that were not delivered"
      unit        = ""
      metrics = { for role, topic in local.topic_names : "failed_${role}" =>
        { namespace = "AWS/SNS", name = "NumberOfNotificationsFailed", dimensions = { TopicName = topic }, stat = "Sum" }
      }
      # SNS publishes the counter only when something failed.
      expression          = join("+", [for role in keys(local.topic_names) : "FILL(failed_${role},0)"])
      graph_also          = []
      comparison          = "GreaterThanOrEqualToThreshold"
      threshold           = 1
      period              = 300
      evaluation_periods  = 1
      datapoints_to_alarm = 1
      treat_missing_data  = "notBreaching"
    }
  }

  signs = {
    GreaterThanThreshold          = ">"
    GreaterThanOrEqualToThreshold = ">="
    LessThanThreshold             = "<"
  }

  # The definitions that are wanted, with the operator's numbers.
  adjusted = {
    for key, definition in local.definitions : key => merge(definition, {
      for name, value in try(var.alarm_overrides[key], {}) : name => value if value != null
    }) if try(var.alarm_overrides[key].enabled, null) != false
  }

  conditions = {
    for key, alarm in local.adjusted : key => join(" ", [
      alarm.subject, local.signs[alarm.comparison], "${alarm.threshold}${alarm.unit}", "in",
      alarm.datapoints_to_alarm == alarm.evaluation_periods ? "${alarm.evaluation_periods}" : "${alarm.datapoints_to_alarm} of ${alarm.evaluation_periods}",
      alarm.evaluation_periods == 1 ? "period" : "periods", "of ${alarm.period} s",
    ])
  }

  alarms = {
    for key, alarm in local.adjusted : key => merge(alarm, {
      name      = "${var.name_prefix}-${key}"
      arn       = "${local.alarm_arn_prefix}${var.name_prefix}-${key}"
      runbook   = "${var.runbook_base_url}#${key}"
      condition = local.conditions[key]
      # The only free text in the mail; CloudWatch shows it as Markdown.
      description = join("\n\n", [
        "${upper(alarm.severity)}: ${alarm.summary}",
        "Condition: ${local.conditions[key]}.",
        "Impact: ${alarm.impact}",
        "First steps: ${alarm.first_steps}",
        "Runbook: ${var.runbook_base_url}#${key}",
      ])
    })
  }

  alarm_actions = {
    for key, alarm in local.alarms : key =>
    contains(local.outage_keys, key) ? [] : key == "alert-delivery-failed" ? local.actions.every : local.actions[alarm.severity]
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name        = each.value.name
  alarm_description = each.value.description
  actions_enabled   = true
  alarm_actions     = local.alarm_actions[each.key]
  ok_actions        = var.notify_on_recovery ? local.alarm_actions[each.key] : []

  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  evaluation_periods  = each.value.evaluation_periods
  datapoints_to_alarm = each.value.datapoints_to_alarm
  treat_missing_data  = each.value.treat_missing_data

  # An alarm on one series. No unit: one that differs from the published unit would leave the alarm without data.
  namespace          = each.value.expression == null ? one(values(each.value.metrics)).namespace : null
  metric_name        = each.value.expression == null ? one(values(each.value.metrics)).name : null
  dimensions         = each.value.expression == null ? one(values(each.value.metrics)).dimensions : null
  period             = each.value.expression == null ? each.value.period : null
  statistic          = each.value.expression == null && !local.is_percentile[each.key] ? one(values(each.value.metrics)).stat : null
  extended_statistic = local.is_percentile[each.key] ? one(values(each.value.metrics)).stat : null
  # The alternative, ignore, would suspend a p95 below 200 jobs in a period.
  evaluate_low_sample_count_percentiles = local.is_percentile[each.key] ? "evaluate" : null

  # An alarm on an expression.
  dynamic "metric_query" {
    for_each = each.value.expression == null ? {} : each.value.metrics

    content {
      id = metric_query.key

      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.name
        dimensions  = metric_query.value.dimensions
        stat        = metric_query.value.stat
        period      = each.value.period
      }
    }
  }

  dynamic "metric_query" {
    for_each = each.value.expression == null ? [] : [each.value.expression]

    content {
      id          = "result"
      expression  = metric_query.value
      label       = each.value.subject
      return_data = true
    }
  }

  tags = merge(local.tags, { Severity = each.value.severity })

  lifecycle {
    # A composite must let go of an alarm before CloudWatch agrees to delete it; this makes Terraform keep that order.
    create_before_destroy = true

    precondition {
      condition     = each.value.datapoints_to_alarm <= each.value.evaluation_periods
      error_message = "${each.key}: datapoints_to_alarm (${each.value.datapoints_to_alarm}) must not exceed evaluation_periods (${each.value.evaluation_periods})."
    }

    precondition {
      # The API allows a day; with periods of an hour or more, seven.
      condition     = each.value.evaluation_periods * each.value.period <= (each.value.period < 3600 ? 86400 : 604800)
      error_message = "${each.key}: evaluation_periods times period must be a day at most, or seven days with periods of an hour or more."
    }
  }
}

locals {
  is_percentile = {
    for key, alarm in local.alarms : key => alarm.expression == null && alltrue([for metric in alarm.metrics : startswith(metric.stat, "p")])
  }
}
