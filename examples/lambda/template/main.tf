# The etcd backup as a Lambda function with inline source, what starts it, and what it may do.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  partition = data.aws_partition.current.partition
  account   = data.aws_caller_identity.current.account_id
  # The only attribute that means the same in versions 5 and 6 of the provider.
  region = data.aws_region.current.id

  # Terraform packs no zip files without a further provider; CloudFormation packs a source that stands in the template.
  template = jsonencode({
    AWSTemplateFormatVersion = "2010-09-09"
    Description              = "Backs up etcd of ${var.cluster_name}"
    Resources = {
      Function = {
        Type = "AWS::Lambda::Function"
        Properties = {
          FunctionName  = var.name
          Description   = "Backs up etcd of ${var.cluster_name} and verifies the backup"
          Runtime       = "python3.13"
          Architectures = ["arm64"]
          Handler       = "index.handler"
          Code          = { ZipFile = file("${path.module}/etcd_backup.inline.txt") }
          Role          = aws_iam_role.function.arn
          MemorySize    = 256
          Timeout       = var.backup_timeout_seconds + 90
          LoggingConfig = { LogGroup = aws_cloudwatch_log_group.function.name }
          Environment = {
            Variables = {
              CLUSTER_NAME           = var.cluster_name
              CONTROL_PLANE_GROUP    = var.control_plane_group
              BACKUP_BUCKET          = var.backup_bucket
              BACKUP_COMMAND         = var.backup_command
              BACKUP_TIMEOUT_SECONDS = tostring(var.backup_timeout_seconds)
            }
          }
        }
      }
      # A failed backup is tried once more; after that the schedule tries again anyway.
      Retries = {
        Type = "AWS::Lambda::EventInvokeConfig"
        Properties = {
          FunctionName             = { Ref = "Function" }
          Qualifier                = "$LATEST"
          MaximumRetryAttempts     = 1
          MaximumEventAgeInSeconds = 3600
        }
      }
    }
    Outputs = {
      FunctionArn = { Value = { "Fn::GetAtt" = ["Function", "Arn"] } }
    }
  })
}

resource "aws_cloudformation_stack" "function" {
  name          = var.name
  template_body = local.template
  tags          = var.tags

  # The first run needs them.
  depends_on = [aws_iam_role_policy.function]

  lifecycle {
    precondition {
      # Counted in bytes; base64 makes four characters of three.
      condition     = length(base64encode(local.template)) / 4 * 3 <= 51200
      error_message = "The template has more than 51,200 bytes, which is all that CloudFormation takes inline: shorten the function, or put its source into a bucket."
    }
  }
}

# ---------------------------------------------------------------------------------------------------------------------
# What it may do
# ---------------------------------------------------------------------------------------------------------------------

resource "aws_iam_role" "function" {
  name = var.name
  tags = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "function" {
  name = "etcd-backup"
  role = aws_iam_role.function.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "FindTheControlPlane"
        Effect   = "Allow"
        Action   = "autoscaling:DescribeAutoScalingGroups"
        Resource = "*" # knows no resources
      },
      {
        Sid      = "RunShellScripts"
        Effect   = "Allow"
        Action   = "ssm:SendCommand"
        Resource = "arn:${local.partition}:ssm:${local.region}::document/AWS-RunShellScript"
      },
      {
        Sid      = "OnTheControlPlaneOnly"
        Effect   = "Allow"
        Action   = "ssm:SendCommand"
        Resource = "arn:${local.partition}:ec2:${local.region}:${local.account}:instance/*"
        Condition = {
          StringEquals = { "ssm:resourceTag/aws:autoscaling:groupName" = var.control_plane_group }
        }
      },
      {
        Sid      = "FollowCommands"
        Effect   = "Allow"
        Action   = ["ssm:GetCommandInvocation", "ssm:CancelCommand"]
        Resource = "*" # a command has an id that is not known before
      },
      {
        Sid      = "LookAtBackups"
        Effect   = "Allow"
        Action   = "s3:GetObject" # what HeadObject needs
        Resource = "arn:${local.partition}:s3:::${var.backup_bucket}/${var.backup_prefix}*"
      },
      {
        Sid      = "TellMissingFromForbidden"
        Effect   = "Allow"
        Action   = "s3:ListBucket"
        Resource = "arn:${local.partition}:s3:::${var.backup_bucket}"
      },
      {
        Sid      = "WriteLogsAndMetrics" # metrics are log lines: no cloudwatch:PutMetricData
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:${aws_cloudwatch_log_group.function.name}:*"
      },
    ]
  })
}

# Made here and not by Lambda, which would keep the lines for ever. Not of the class INFREQUENT_ACCESS: that one extracts no metrics.
resource "aws_cloudwatch_log_group" "function" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_days
  tags              = var.tags
}

# ---------------------------------------------------------------------------------------------------------------------
# What starts it
# ---------------------------------------------------------------------------------------------------------------------

resource "aws_cloudwatch_event_rule" "schedule" {
  name                = var.name
  description         = "Starts the etcd backup of ${var.cluster_name}"
  schedule_expression = var.schedule
  tags                = var.tags
}

resource "aws_cloudwatch_event_target" "function" {
  rule = aws_cloudwatch_event_rule.schedule.name
  arn  = aws_cloudformation_stack.function.outputs["FunctionArn"]
}

resource "aws_lambda_permission" "schedule" {
  statement_id  = "schedule"
  action        = "lambda:InvokeFunction"
  function_name = aws_cloudformation_stack.function.outputs["FunctionArn"]
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.schedule.arn
}
