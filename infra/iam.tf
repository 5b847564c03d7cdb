# What a process that publishes metrics may do: write to the namespaces of RetainWise, and nothing else.

locals {
  publisher_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "PublishRetainWiseMetrics"
      Effect   = "Allow"
      Action   = "cloudwatch:PutMetricData"
      Resource = "*" # PutMetricData knows no resources; the namespace is its only limit
      Condition = {
        StringEquals = { "cloudwatch:namespace" = local.namespaces }
      }
    }]
  })
}
