variable "name" {
  description = "Name of the function, and start of the names of everything that belongs to it."
  type        = string
  default     = "etcd-backup"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9-]{1,40}$", var.name))
    error_message = "name must be 1 to 40 letters, digits and hyphens: CloudFormation stacks allow no others."
  }
}

variable "cluster_name" {
  description = "Name of the Kubernetes cluster: the value of the dimension ClusterName."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[!-~]{1,255}$", var.cluster_name))
    error_message = "cluster_name must be 1 to 255 printable ASCII characters without spaces."
  }
}

variable "control_plane_group" {
  description = "Name of the Auto Scaling group of the control plane. Commands may be run on its instances only."
  type        = string
  nullable    = false

  validation {
    condition     = length(var.control_plane_group) >= 1 && length(var.control_plane_group) <= 255
    error_message = "control_plane_group must be the name of an Auto Scaling group: 1 to 255 characters."
  }
}

variable "backup_bucket" {
  description = "Name of the existing bucket that the backup script writes to."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.backup_bucket))
    error_message = "backup_bucket must be the name of an S3 bucket: 3 to 63 lower-case letters, digits, dots and hyphens."
  }
}

variable "backup_prefix" {
  description = "What the keys of backups begin with; the function may look at no other objects."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = !startswith(var.backup_prefix, "/") && !strcontains(var.backup_prefix, "*")
    error_message = "backup_prefix is the start of a key, such as \"etcd/\": without a leading slash and without asterisks."
  }
}

variable "backup_command" {
  description = "Command that makes a backup, run as root on a control plane node. Its last word is `BACKUP_SUCCESS key=... size=...`."
  type        = string
  default     = "/usr/local/bin/etcd-backup.sh"
  nullable    = false

  validation {
    condition     = length(trimspace(var.backup_command)) > 0
    error_message = "backup_command must not be empty."
  }
}

variable "backup_timeout_seconds" {
  description = "How long the command may take before it is cancelled. The function's time limit is 90 seconds more."
  type        = number
  default     = 600
  nullable    = false

  validation {
    condition     = var.backup_timeout_seconds >= 30 && var.backup_timeout_seconds <= 810 && floor(var.backup_timeout_seconds) == var.backup_timeout_seconds
    error_message = "backup_timeout_seconds must be a whole number from 30 to 810: Lambda stops a function after 900 seconds."
  }
}

variable "schedule" {
  description = "When backups are made, as an EventBridge schedule expression."
  type        = string
  default     = "rate(1 hour)"
  nullable    = false

  validation {
    condition     = can(regex("^(rate|cron)\\(.+\\)$", var.schedule))
    error_message = "schedule must be an expression such as rate(1 hour) or cron(0 3 * * ? *)."
  }
}

variable "hours_without_backup" {
  description = "After how many hours without a single backup the alarm goes off. Give a daily schedule one more than 24."
  type        = number
  default     = 24
  nullable    = false

  validation {
    # An alarm looks back seven days at most.
    condition     = var.hours_without_backup >= 1 && var.hours_without_backup <= 168 && floor(var.hours_without_backup) == var.hours_without_backup
    error_message = "hours_without_backup must be a whole number from 1 to 168."
  }
}

variable "topic_arn" {
  description = "ARN of the SNS topic that hears of both alarms, and of their end."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}$", var.topic_arn))
    error_message = "topic_arn must be the ARN of a standard SNS topic; alarms cannot use FIFO topics."
  }
}

variable "log_retention_days" {
  description = "How long log lines are kept. Metrics are kept by CloudWatch for 15 months, whatever this is."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be a number of days that CloudWatch Logs offers, such as 14, 30 or 365."
  }
}

variable "tags" {
  description = "Tags for everything that can have tags."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(var.tags) <= 50
    error_message = "tags must be 50 at most."
  }
}
