# Alarms, topics and dashboards of RetainWise. The alarms are one map, in alarms.tf; everything else is made from it.

data "aws_caller_identity" "current" {
  # Rules that span variables are preconditions: a variable's validation may only refer to itself before Terraform 1.9.
  lifecycle {
    precondition {
      condition     = var.queue_name != var.dlq_name
      error_message = "dlq_name must not be the queue itself: every waiting job would count as a dead letter."
    }

    precondition {
      condition     = length(setsubtract(keys(var.alarm_overrides), keys(local.definitions))) == 0
      error_message = "alarm_overrides names alarms that do not exist: ${join(", ", setsubtract(keys(var.alarm_overrides), keys(local.definitions)))}. There are: ${join(", ", keys(local.definitions))}."
    }

    precondition {
      condition     = length(setsubtract(var.outage_members, keys(local.definitions))) == 0
      error_message = "outage_members names alarms that do not exist: ${join(", ", setsubtract(var.outage_members, keys(local.definitions)))}. There are: ${join(", ", keys(local.definitions))}."
    }
  }
}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  # The only attribute that means the same in versions 5 and 6 of the provider.
  region = data.aws_region.current.id

  tags = merge({ Project = "RetainWise", ManagedBy = "terraform", Module = "retainwise-metrics" }, var.tags)

  alarm_arn_prefix = "arn:${local.partition}:cloudwatch:${local.region}:${local.account}:alarm:"

  # What the package publishes. `retainwise-metrics catalogue --format json` makes the file, and a test keeps it fresh.
  catalogue  = jsondecode(file("${path.module}/catalogue.json"))
  namespaces = distinct([for metric in local.catalogue : metric.namespace])

  # The series alarms may read: those published without dimensions. A name that is not among them fails the plan.
  rollup = {
    for metric in local.catalogue : metric.name => { namespace = metric.namespace, name = metric.name, dimensions = {} }
    if anytrue([for keys in metric.dimension_sets : length(keys) == 0])
  }
}
