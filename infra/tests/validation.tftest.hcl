# Every rule of the variables refuses what it should. A run breaks one rule of each variable, because each run plans the
# whole module; it passes only if every variable of its list is refused.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  queue_name      = "predictions"
  dlq_name        = "predictions-dlq"
  critical_emails = ["oncall@example.com"]
}

run "refused_first_rule" {
  command = plan

  variables {
    queue_name          = ""                                                                 # empty
    dlq_name            = "arn:aws:sqs:eu-central-1:123456789012:predictions-dlq"            # an ARN
    name_prefix         = "RetainWise"                                                       # capitals
    tags                = { for index in range(46) : "tag-${index}" => "x" }                 # too many
    critical_emails     = ["oncall.example.com"]                                             # no @
    warning_emails      = ["team@localhost"]                                                 # no full domain
    https_endpoint      = "http://example.com/alerts"                                        # not encrypted
    existing_topic_arns = { critical = "arn:aws:sns:eu-central-1:123456789012:alerts.fifo" } # a FIFO topic
    encryption          = { mode = "aes" }                                                   # an unknown mode
    alarm_overrides     = { "sqs-queue-depth-high" = { severity = "urgent" } }               # an unknown severity
    minimum_volume      = 0                                                                  # zero would divide by zero
    outage_members      = ["sqs-queue-depth-high"]                                           # one alone
    runbook_base_url    = "https://example.com/runbooks.md#top"                              # a fragment
  }

  expect_failures = [
    var.queue_name,
    var.dlq_name,
    var.name_prefix,
    var.tags,
    var.critical_emails,
    var.warning_emails,
    var.https_endpoint,
    var.existing_topic_arns,
    var.encryption,
    var.alarm_overrides,
    var.minimum_volume,
    var.outage_members,
    var.runbook_base_url,
  ]
}

run "refused_second_rule" {
  command = plan

  variables {
    queue_name          = "https://sqs.eu-central-1.amazonaws.com/123456789012/predictions" # a URL
    name_prefix         = "retainwise-"                                                     # a hyphen at the end
    tags                = { "aws:cost" = "x" }                                              # reserved by AWS
    critical_emails     = ["On call <oncall@example.com>"]                                  # a display name
    warning_emails      = ["team@example.com", "team@example.com"]                          # the same address twice
    existing_topic_arns = { warning = "arn:aws:sqs:eu-central-1:123456789012:alerts" }      # a queue
    encryption          = { mode = "existing", kms_key_arn = "alias/aws/sns" }              # the key that silently stops alarm mail
    alarm_overrides     = { "sqs-queue-depth-high" = { threshold = -1 } }                   # a negative threshold
    outage_members      = ["sqs-queue-depth-high", "dlq-messages-present"]                  # would silence later outages
    runbook_base_url    = "http://example.com/runbooks.md"                                  # not encrypted
    dlq_name            = "predictions dlq"                                                 # a blank
    https_endpoint      = "https://example.com"                                             # no path
    minimum_volume      = 2.5                                                               # half an upload
  }

  expect_failures = [
    var.queue_name,
    var.name_prefix,
    var.tags,
    var.critical_emails,
    var.warning_emails,
    var.existing_topic_arns,
    var.encryption,
    var.alarm_overrides,
    var.outage_members,
    var.runbook_base_url,
    var.dlq_name,
    var.https_endpoint,
    var.minimum_volume,
  ]
}

run "refused_third_rule" {
  command = plan

  variables {
    tags            = { runbook = "page#section" }                                                               # # is not allowed in a tag
    critical_emails = ["on..call@example.com"]                                                                   # two dots in a row
    encryption      = { mode = "existing", kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:alias/aws/sns" } # the same key, as an ARN
    alarm_overrides = { "sqs-queue-depth-high" = { period = 10 } }                                               # too short a period
  }

  expect_failures = [
    var.tags,
    var.critical_emails,
    var.encryption,
    var.alarm_overrides,
  ]
}

run "refused_fourth_rule" {
  command = plan

  variables {
    critical_emails = ["oncall@example.com", "OnCall@example.com"]            # the same address twice
    encryption      = { mode = "existing" }                                   # no key
    alarm_overrides = { "sqs-queue-depth-high" = { evaluation_periods = 0 } } # no periods
  }

  expect_failures = [
    var.critical_emails,
    var.encryption,
    var.alarm_overrides,
  ]
}

run "refused_fifth_rule" {
  command = plan

  variables {
    encryption      = { mode = "existing", kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:alias/alerts" } # an alias
    alarm_overrides = { "sqs-queue-depth-high" = { datapoints_to_alarm = 1.5 } }                                # half a datapoint
  }

  expect_failures = [
    var.encryption,
    var.alarm_overrides,
  ]
}

run "refused_sixth_rule" {
  command = plan

  variables {
    encryption = { mode = "create", kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee" } # a key that would not be used
  }

  expect_failures = [
    var.encryption,
  ]
}

# Rules across variables are preconditions.

run "refused_dlq_is_the_queue" {
  command = plan

  variables {
    dlq_name = "predictions"
  }

  expect_failures = [data.aws_caller_identity.current]
}

run "refused_alarm_overrides_of_an_unknown_alarm" {
  command = plan

  variables {
    alarm_overrides = { "queue-depth" = { threshold = 1 } }
  }

  expect_failures = [data.aws_caller_identity.current]
}

run "refused_outage_members_unknown" {
  command = plan

  variables {
    outage_members = ["sqs-queue-depth-high", "queue-depth"]
  }

  expect_failures = [data.aws_caller_identity.current]
}

run "refused_nobody_to_tell" {
  command = plan

  variables {
    critical_emails = []
  }

  expect_failures = [aws_sns_topic.this]
}

run "refused_more_datapoints_than_periods" {
  command = plan

  variables {
    alarm_overrides = { "sqs-queue-depth-high" = { evaluation_periods = 3 } }
  }

  expect_failures = [aws_cloudwatch_metric_alarm.this]
}

run "refused_longer_than_a_day" {
  command = plan

  variables {
    alarm_overrides = { "sqs-queue-depth-high" = { period = 1800, evaluation_periods = 49 } }
  }

  expect_failures = [aws_cloudwatch_metric_alarm.this]
}
