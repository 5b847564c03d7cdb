# Alarms go to a topic that another team owns. Its policy has to admit them: see the output topic_policy_json.

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

variable "topic_arn" {
  description = "ARN of the standard SNS topic that already has subscribers."
  type        = string
  default     = "arn:aws:sns:eu-central-1:123456789012:company-alerts"
}

module "alarms" {
  source = "../.."

  queue_name          = "retainwise-predictions"
  dlq_name            = "retainwise-predictions-dlq"
  existing_topic_arns = { critical = var.topic_arn }

  # The owner of the topic decides what happens to mail that cannot be delivered.
  subscription_dlq_enabled = false
}

output "topic_policy_json" {
  description = "The statement that the topic's policy needs."
  value       = module.alarms.topic_policy_json["critical"]
}
