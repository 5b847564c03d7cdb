"""
The way of a measurement from the caller to the sink: intake, aggregation, backlog, batching, delivery, flusher.

Read in this order; each module only knows the ones before it.
"""
