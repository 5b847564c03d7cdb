# The queue and its dead-letter queue exist already; alarms go to one mailbox.

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

module "alarms" {
  source = "../.."

  queue_name      = "retainwise-predictions"
  dlq_name        = "retainwise-predictions-dlq"
  critical_emails = ["oncall@example.com"]
}

output "next_steps" {
  description = "What to do after the apply."
  value       = module.alarms.next_steps
}
