# A key of our own, because the policy of alias/aws/sns cannot admit CloudWatch: alarms would turn red and mail nobody.

locals {
  kms_key_arn = try(aws_kms_key.this[0].arn, var.encryption.kms_key_arn)
}

resource "aws_kms_key" "this" {
  count = var.encryption.mode == "create" && length(local.created_topics) > 0 ? 1 : 0

  description             = "Alert topics of ${var.name_prefix}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  tags                    = local.tags

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Account"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = "AlarmsOfThisAccount"
        Effect    = "Allow"
        Principal = { Service = "cloudwatch.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      },
    ]
  })
}

resource "aws_kms_alias" "this" {
  count = length(aws_kms_key.this)

  name          = "alias/${var.name_prefix}-cloudwatch-alerts"
  target_key_id = aws_kms_key.this[0].key_id
}
