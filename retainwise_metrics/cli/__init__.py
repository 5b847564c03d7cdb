"""
The operators' commands: `retainwise-metrics catalogue | check | drill | replay-dlq`.

1. What a verb does is in the module named after it: plain functions and classes over boto3 clients that are handed in.
2. `app` parses the command line, `output` draws, `access` decides what may be touched; nothing else does any of it.
3. Only `app` and `output` need the extra `[cli]`.
"""
