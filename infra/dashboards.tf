# Two dashboards over the alarms' own series and expressions, so that what a graph shows is what the alarm sees.

locals {
  dashboard_spans = {
    # The shortest period a point stands for: a week of minutes would be more points than a graph has pixels.
    realtime = { start = "-PT3H", shortest_period = 60 }
    trend    = { start = "-P7D", shortest_period = 3600 }
  }

  # Graphs in the order in which one asks: is work coming in, is it done, how well, and can the alarms be trusted?
  graph_order = [for key in [
    "api-upload-success-rate-low", "s3-upload-failures", "sqs-queue-depth-high",
    "sqs-message-age-high", "dlq-messages-present", "worker-heartbeat-missing",
    "worker-error-rate-high", "prediction-processing-slow", "database-write-errors",
    "model-load-failures", "model-confidence-low", "metrics-dropped",
    "alert-delivery-failed",
  ] : key if contains(keys(local.alarms), key)]

  # Shown as a number as well.
  numbers = [for key in [
    "sqs-queue-depth-high", "sqs-message-age-high", "dlq-messages-present",
    "api-upload-success-rate-low", "worker-error-rate-high", "prediction-processing-slow",
  ] : key if contains(keys(local.alarms), key)]

  # Graphs without an alarm; their series are roll-ups of the catalogue too.
  volumes = {
    "Exceptions nobody expected"    = { stat = "Sum", names = ["UploadUnexpectedError", "WorkerUnexpectedError"] }
    "Jobs by outcome"               = { stat = "Sum", names = ["SQSMessageSent", "WorkerSuccess", "WorkerFailure"] }
    "Uploads by outcome"            = { stat = "Sum", names = ["UploadSuccess", "UploadRejected", "UploadFailure"] }
    "Where the time goes, p95 in s" = { stat = "p95", names = ["UploadEndToEndDuration", "S3UploadDuration", "S3DownloadDuration", "MLPredictionDuration", "DatabaseWriteDuration"] }
  }

  # By type of error: what the runbooks send the reader to. SEARCH works in graphs, never in alarms.
  by_type = {
    "Failures of the API by type"    = ["UploadFailure", "S3UploadFailure"]
    "Failures of the worker by type" = ["WorkerFailure", "S3DownloadFailure", "CSVParseError", "MLPredictionError", "ModelLoadFailure", "DatabaseWriteError"]
  }

  status_height = 4
  number_top    = local.status_height
  number_height = 3
  graph_top     = local.number_top + local.number_height
  graph_height  = 6
  volume_top    = local.graph_top + local.graph_height * ceil(length(local.graph_order) / 3)
  by_type_top   = local.volume_top + local.graph_height * ceil(length(local.volumes) / 2)
  text_top      = local.by_type_top + local.graph_height

  # Per dashboard and alarm: the alarm's series, its expression, and the further statistics of its graph.
  series = {
    for span_key, span in local.dashboard_spans : span_key => {
      for key, alarm in local.alarms : key => concat(
        [for id, metric in alarm.metrics : concat(local.metric_head[key][id], [merge(
          { id = id, stat = metric.stat, label = "${metric.stat} ${metric.name}", period = max(alarm.period, span.shortest_period) },
          { for name, value in { visible = false } : name => value if alarm.expression != null },
        )])],
        [for expression in alarm.expression[*] : [
          { id = "result", expression = expression, label = alarm.subject, period = max(alarm.period, span.shortest_period) }
        ]],
        [for line in flatten([for id, metric in alarm.metrics : [for stat in alarm.graph_also : { id = id, name = metric.name, stat = stat }]]) :
          concat(local.metric_head[key][line.id], [
            { stat = line.stat, label = "${line.stat} ${line.name}", period = max(alarm.period, span.shortest_period) }
          ])
        ],
      )
    }
  }

  # Namespace, name, and the dimensions by turns, as a dashboard writes a series.
  metric_head = {
    for key, alarm in local.alarms : key => {
      for id, metric in alarm.metrics : id => concat(
        [metric.namespace, metric.name],
        flatten([for name, value in metric.dimensions : [name, value]]),
      )
    }
  }

  status_widgets = concat(
    [{
      type = "alarm", x = 0, y = 0, width = length(local.composites) > 0 ? 18 : 24, height = local.status_height
      properties = {
        title  = "Alarms (red: act; grey: no data yet, see the runbook of check)"
        alarms = [for key in local.graph_order : local.alarms[key].arn]
        sortBy = "stateUpdatedTimestamp"
      }
    }],
    [for arns in [[for composite in local.composites : "${local.alarm_arn_prefix}${composite.name}"]] : {
      type = "alarm", x = 18, y = 0, width = 6, height = local.status_height
      properties = {
        title  = "The service"
        alarms = arns
        sortBy = "default"
      }
    } if length(arns) > 0],
  )

  runbook_lines = [for key in local.graph_order :
    "- **${local.alarms[key].severity}** [${local.alarms[key].name}](${local.alarms[key].runbook}): ${local.alarms[key].condition}"
  ]

  text_widgets = [{
    type = "text", x = 0, y = local.text_top, width = 24, height = 8
    properties = {
      markdown = join("\n", concat(["### What each alarm means and what to do", ""], local.runbook_lines))
    }
  }]

  graph_widgets = { for span_key, span in local.dashboard_spans : span_key => [
    for index, key in local.graph_order : {
      type = "metric", x = 8 * (index % 3), y = local.graph_top + local.graph_height * floor(index / 3), width = 8, height = local.graph_height
      properties = {
        title   = key
        view    = "timeSeries"
        stacked = false
        region  = local.region
        metrics = local.series[span_key][key]
        yAxis   = { left = { min = 0 } }
        annotations = { horizontal = [{
          value = local.alarms[key].threshold
          label = "alarm: ${local.signs[local.alarms[key].comparison]} ${local.alarms[key].threshold}${local.alarms[key].unit}"
          color = local.alarms[key].severity == "critical" ? "#d62728" : "#ff7f0e"
        }] }
      }
    }
  ] }

  number_widgets = { for span_key, span in local.dashboard_spans : span_key => [
    for index, key in local.numbers : {
      type = "metric", x = 4 * index, y = local.number_top, width = 4, height = local.number_height
      properties = {
        title     = key
        view      = "singleValue"
        sparkline = true
        region    = local.region
        # The first visible line is what the alarm reads.
        metrics = [for line in local.series[span_key][key] : line if !can(regex("^p(50|99)$", line[length(line) - 1].stat))]
      }
    }
  ] }

  volume_widgets = { for span_key, span in local.dashboard_spans : span_key => [
    for index, title in keys(local.volumes) : {
      type = "metric", x = 12 * (index % 2), y = local.volume_top + local.graph_height * floor(index / 2), width = 12, height = local.graph_height
      properties = {
        title   = title
        view    = "timeSeries"
        stacked = false
        region  = local.region
        yAxis   = { left = { min = 0 } }
        metrics = [for name in local.volumes[title].names : [
          local.rollup[name].namespace, local.rollup[name].name, { stat = local.volumes[title].stat, label = name, period = max(300, span.shortest_period) }
        ]]
      }
    }
  ] }

  by_type_widgets = { for span_key, span in local.dashboard_spans : span_key => [
    for index, title in keys(local.by_type) : {
      type = "metric", x = 12 * (index % 2), y = local.by_type_top, width = 12, height = local.graph_height
      properties = {
        title   = title
        view    = "timeSeries"
        stacked = true
        region  = local.region
        yAxis   = { left = { min = 0 } }
        metrics = [for name in local.by_type[title] : [{
          id         = lower(name)
          label      = "${name} $${PROP('Dim.ErrorType')}"
          expression = "SEARCH('{${local.rollup[name].namespace},ErrorType} MetricName=\"${name}\"', 'Sum', ${max(300, span.shortest_period)})"
        }]]
      }
    }
  ] }
}

resource "aws_cloudwatch_dashboard" "this" {
  for_each = { for key, span in local.dashboard_spans : key => span if var.dashboards_enabled }

  dashboard_name = "${var.name_prefix}-${each.key}"
  dashboard_body = jsonencode({
    start          = each.value.start
    periodOverride = "inherit"
    widgets = concat(
      local.status_widgets,
      local.number_widgets[each.key],
      local.graph_widgets[each.key],
      local.volume_widgets[each.key],
      local.by_type_widgets[each.key],
      local.text_widgets,
    )
  })
}
