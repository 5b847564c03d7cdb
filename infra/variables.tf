# ---------------------------------------------------------------------------------------------------------------------
# What is watched
# ---------------------------------------------------------------------------------------------------------------------

variable "queue_name" {
  description = "Name of the existing SQS queue of prediction jobs. A name, not a URL or an ARN: it is the value of the dimension QueueName."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,80}$", var.queue_name)) || can(regex("^[A-Za-z0-9_-]{1,75}\\.fifo$", var.queue_name))
    error_message = "queue_name must be the name of an SQS queue: 1 to 80 letters, digits, hyphens and underscores, with .fifo at the end of a FIFO queue's."
  }
}

variable "dlq_name" {
  description = "Name of the existing dead-letter queue of `queue_name`."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,80}$", var.dlq_name)) || can(regex("^[A-Za-z0-9_-]{1,75}\\.fifo$", var.dlq_name))
    error_message = "dlq_name must be the name of an SQS queue: 1 to 80 letters, digits, hyphens and underscores, with .fifo at the end of a FIFO queue's."
  }
}

# ---------------------------------------------------------------------------------------------------------------------
# Names and tags
# ---------------------------------------------------------------------------------------------------------------------

variable "name_prefix" {
  description = "Start of every name: alarms are `<name_prefix>-<key>`, the topic is `<name_prefix>-cloudwatch-alerts`. The topic policy admits alarms of this prefix only."
  type        = string
  default     = "retainwise"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}[a-z0-9]$", var.name_prefix))
    error_message = "name_prefix must be 2 to 32 lower-case letters, digits and hyphens, start with a letter and not end with a hyphen."
  }
}

variable "tags" {
  description = "Tags for everything that can have tags, over the module's own Project, ManagedBy and Module."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    # AWS allows 50 on a resource; the module adds up to five of its own.
    condition     = length(var.tags) <= 45
    error_message = "tags must be 45 at most: AWS allows 50 on a resource, and the module adds its own."
  }

  validation {
    condition     = alltrue([for key, value in var.tags : can(regex("^[\\p{L}\\p{N} _.:/=+@-]{1,128}$", key)) && can(regex("^[\\p{L}\\p{N} _.:/=+@-]{0,256}$", value)) && !startswith(lower(key), "aws:")])
    error_message = "tags must have keys of 1 to 128 and values of 0 to 256 letters, digits, spaces and _.:/=+-@, and no key may start with aws:."
  }
}

# ---------------------------------------------------------------------------------------------------------------------
# Who is told
# ---------------------------------------------------------------------------------------------------------------------

variable "critical_emails" {
  description = "Addresses that get the mail of critical alarms (of all alarms, while there is no topic for warnings). Each has to confirm its subscription by a link that AWS mails."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for email in var.critical_emails : can(regex("^[A-Za-z0-9_%+-]+(\\.[A-Za-z0-9_%+-]+)*@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\\.)+[A-Za-z]{2,63}$", email)) && length(email) <= 254])
    error_message = "critical_emails must be plain addresses such as oncall@example.com, without a display name."
  }

  validation {
    condition     = length(distinct([for email in var.critical_emails : lower(email)])) == length(var.critical_emails)
    error_message = "critical_emails must not name an address twice."
  }
}

variable "warning_emails" {
  description = "Addresses that get the mail of warnings. With at least one, warnings have a topic of their own, `<name_prefix>-cloudwatch-warnings`; otherwise they go to the critical topic."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for email in var.warning_emails : can(regex("^[A-Za-z0-9_%+-]+(\\.[A-Za-z0-9_%+-]+)*@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\\.)+[A-Za-z]{2,63}$", email)) && length(email) <= 254])
    error_message = "warning_emails must be plain addresses such as team@example.com, without a display name."
  }

  validation {
    condition     = length(distinct([for email in var.warning_emails : lower(email)])) == length(var.warning_emails)
    error_message = "warning_emails must not name an address twice."
  }
}

variable "https_endpoint" {
  description = "HTTPS endpoint that gets the critical alarms too, such as PagerDuty's CloudWatch integration URL. It must confirm SNS subscriptions by itself; a plain Slack webhook does not (see README.md). Sensitive, because such URLs contain a key."
  type        = string
  default     = null
  sensitive   = true

  validation {
    condition     = var.https_endpoint == null || can(regex("^https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[^\\s]*$", var.https_endpoint))
    error_message = "https_endpoint must be a URL that starts with https:// and has a path; SNS would send alarms over http in the clear."
  }
}

variable "existing_topic_arns" {
  description = "Topics to use instead of creating them: `critical`, `warning`, or both. Their policy and key are not touched: see the output topic_policy_json for the policy they need."
  type = object({
    critical = optional(string)
    warning  = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition = alltrue([
      for arn in [var.existing_topic_arns.critical, var.existing_topic_arns.warning] :
      arn == null || can(regex("^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}$", arn))
    ])
    error_message = "existing_topic_arns must hold ARNs of standard SNS topics; a FIFO topic cannot send e-mail."
  }
}

variable "notify_on_recovery" {
  description = "Whether the end of an alarm is mailed too. The first deployment then sends one such mail per alarm, to whoever has confirmed by then."
  type        = bool
  default     = true
  nullable    = false
}

# ---------------------------------------------------------------------------------------------------------------------
# Topics
# ---------------------------------------------------------------------------------------------------------------------

variable "encryption" {
  description = "Encryption of the created topics: mode `none`, `create` (a customer managed key of this module), or `existing` (kms_key_arn, whose policy must admit cloudwatch.amazonaws.com)."
  type = object({
    mode        = optional(string, "none")
    kms_key_arn = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["none", "create", "existing"], var.encryption.mode)
    error_message = "encryption.mode must be none, create or existing."
  }

  validation {
    # try: the condition must not fail on null, and every validation is evaluated.
    condition     = !strcontains(try(coalesce(var.encryption.kms_key_arn), ""), "alias/aws/")
    error_message = "encryption.kms_key_arn must not be a key that AWS manages, such as alias/aws/sns: CloudWatch cannot publish through it, and alarm mail stops without any error. Use mode create, or a customer managed key."
  }

  validation {
    condition     = var.encryption.mode != "existing" || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.encryption.kms_key_arn))
    error_message = "encryption.mode existing needs kms_key_arn, the ARN of a customer managed key (arn:aws:kms:<region>:<account>:key/<id>); an alias may move to a key whose policy does not admit CloudWatch."
  }

  validation {
    condition     = var.encryption.mode == "existing" || var.encryption.kms_key_arn == null
    error_message = "encryption.kms_key_arn is only used with encryption.mode existing; remove one or change the other."
  }
}

variable "subscription_dlq_enabled" {
  description = "Whether alerts that SNS could not deliver are kept in a queue for 14 days. Without it they are discarded: after six hours of retries for e-mail."
  type        = bool
  default     = true
  nullable    = false
}

# ---------------------------------------------------------------------------------------------------------------------
# Alarms
# ---------------------------------------------------------------------------------------------------------------------

variable "alarm_overrides" {
  description = "Changes to single alarms, by key (see README.md for keys and defaults). `enabled = false` leaves an alarm out."
  type = map(object({
    enabled             = optional(bool)
    severity            = optional(string)
    threshold           = optional(number)
    period              = optional(number)
    evaluation_periods  = optional(number)
    datapoints_to_alarm = optional(number)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for change in var.alarm_overrides : try(contains(["critical", "warning"], change.severity), change.severity == null)])
    error_message = "alarm_overrides: severity must be critical or warning."
  }

  validation {
    condition     = alltrue([for change in var.alarm_overrides : try(change.threshold >= 0, change.threshold == null)])
    error_message = "alarm_overrides: threshold must not be negative; no metric of RetainWise is."
  }

  validation {
    # CloudWatch also allows 10, 20 and 30, for metrics of one second's resolution only, which these are not.
    condition     = alltrue([for change in var.alarm_overrides : try(change.period >= 60 && change.period <= 86400 && change.period % 60 == 0, change.period == null)])
    error_message = "alarm_overrides: period must be a multiple of 60, from 60 to 86400 seconds."
  }

  validation {
    condition = alltrue(flatten([
      for change in var.alarm_overrides : [
        for count in [change.evaluation_periods, change.datapoints_to_alarm] : try(count >= 1 && floor(count) == count, count == null)
      ]
    ]))
    error_message = "alarm_overrides: evaluation_periods and datapoints_to_alarm must be whole numbers from 1."
  }
}

variable "minimum_volume" {
  description = "Uploads, jobs or files that a period must have before its rate counts: keeps one failure out of one from being 100 %."
  type        = number
  default     = 5
  nullable    = false

  validation {
    condition     = var.minimum_volume >= 1 && floor(var.minimum_volume) == var.minimum_volume
    error_message = "minimum_volume must be a whole number from 1."
  }
}

variable "composites_enabled" {
  description = "Whether the composites service-outage and service-health exist. Without them each alarm mails by itself, and one outage becomes several mails."
  type        = bool
  default     = true
  nullable    = false
}

variable "outage_members" {
  description = "Keys of the alarms that are symptoms of one outage: they mail through service-outage only. Leave out what may stay in ALARM for long, because it would silence the others."
  type        = set(string)
  default = [
    "database-write-errors",
    "model-load-failures",
    "sqs-message-age-high",
    "sqs-queue-depth-high",
    "worker-heartbeat-missing",
  ]
  nullable = false

  validation {
    # An alarm rule holds 500 elements; CloudWatch allows 100 children.
    condition     = length(var.outage_members) >= 2
    error_message = "outage_members must name at least two alarms; to do without the composite, set composites_enabled = false."
  }

  validation {
    condition     = !contains(var.outage_members, "dlq-messages-present")
    error_message = "outage_members must not contain dlq-messages-present: it stays in ALARM until somebody drains the queue, and would silence every later outage."
  }
}

variable "runbook_base_url" {
  description = "Address of docs/runbooks.md as operators see it; `#<key>` is added."
  type        = string
  default     = "https://github.com/retainwise/retainwise-metrics/blob/main/docs/runbooks.md"
  nullable    = false

  validation {
    condition     = can(regex("^https://[^\\s#]{4,200}$", var.runbook_base_url))
    error_message = "runbook_base_url must start with https://, have no # and no blanks, and be at most 208 characters long."
  }
}

variable "dashboards_enabled" {
  description = "Whether the two dashboards are created. CloudWatch has three for free in an account."
  type        = bool
  default     = true
  nullable    = false
}
