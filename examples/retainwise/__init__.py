"""
RetainWise in a box: an upload API, workers with a real model, and an AWS of their own.

The way through the code, in the order of the data: `traffic` uploads CSV files to `api`, which checks them
(`csv_checks`) and hands them through S3 and SQS to `worker`, which scores them (`model`) into SQLite (`storage`). Both
record what they do in CloudWatch through `retainwise_metrics`, and count it once more by themselves (`tally`). `demo`
runs it all, reads CloudWatch back (`read_back`), compares (`compare`), judges (`checks`) and tells (`report`).
"""
