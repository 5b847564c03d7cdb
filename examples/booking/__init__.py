"""
A ticketing service in hexagonal style: its use cases know ports, and of metrics they know `MetricsService`.

From the inside out: `domain` (seats, bookings, payments, and the ports), `use_cases` (reserve, pay, book), `consumer`
(what happens to a booking later) and `api` (what a web framework would call), `adapters` (everything in memory). All of
it meets in `wiring`, the only module that knows where metrics go: `SINK=cloudwatch` or `SINK=emf`.

`python -m examples.booking` puts it under load and proves that its metrics are right: `load` keeps books at the ports
(`witness`) without the help of any metric, `proof` holds them against what was published, `report` shows it.
`dashboard` is what CloudWatch would draw.
"""
