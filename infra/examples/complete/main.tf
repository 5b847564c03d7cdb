# Everything: the queues with redrive, two topics with a key of their own, PagerDuty, changed thresholds, and the policy
# for the processes that publish.

terraform {
  required_version = ">= 1.7"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0, < 7.0"
    }
  }
}

provider "aws" {
  region = "eu-central-1"
}

variable "pagerduty_url" {
  description = "URL of a PagerDuty service's CloudWatch integration; contains a key."
  type        = string
  default     = null
  sensitive   = true
}

resource "aws_sqs_queue" "predictions" {
  name = "retainwise-predictions"
  # Longer than the slowest job, or the queue hands it out a second time.
  visibility_timeout_seconds = 900
  receive_wait_time_seconds  = 20
  sqs_managed_sse_enabled    = true

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead.arn
    maxReceiveCount     = 3
  })
}

resource "aws_sqs_queue" "dead" {
  name = "retainwise-predictions-dlq"
  # Counted from the upload, not from the move into this queue: the most that SQS allows.
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue_redrive_allow_policy" "dead" {
  queue_url = aws_sqs_queue.dead.id

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.predictions.arn]
  })
}

module "alarms" {
  source = "../.."

  queue_name = aws_sqs_queue.predictions.name
  dlq_name   = aws_sqs_queue.dead.name

  critical_emails = ["oncall@example.com"]
  warning_emails  = ["team@example.com"]
  https_endpoint  = var.pagerduty_url
  encryption      = { mode = "create" }

  alarm_overrides = {
    "sqs-queue-depth-high" = { threshold = 50 }
    "model-confidence-low" = { threshold = 0.65 }
    "metrics-dropped"      = { enabled = false }
  }

  tags = { Environment = "production", Owner = "platform" }
}

resource "aws_iam_policy" "publish_metrics" {
  name        = "retainwise-publish-metrics"
  description = "For the roles of the API and the worker."
  policy      = module.alarms.publisher_policy_json
}

output "alarms" {
  description = "Every alarm with its condition and runbook."
  value       = module.alarms.alarms
}

output "dashboards" {
  description = "Addresses of the dashboards."
  value       = module.alarms.dashboards
}

output "next_steps" {
  description = "What to do after the apply."
  value       = module.alarms.next_steps
}
