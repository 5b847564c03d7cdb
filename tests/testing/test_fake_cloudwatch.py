"""
What the fake CloudWatch keeps, how tests and boto3 read it back, and how it starts and stops.
"""

from __future__ import annotations

import gc
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from retainwise_metrics.testing.fake_cloudwatch import FakeCloudWatch

NOW = 1_700_000_040.0
MINUTE = 1_700_000_040
API = "RetainWise/API"


@pytest.fixture
def client(cloudwatch, connect):
    """
    A client of the fresh server.
    """
    with connect(cloudwatch) as made:
        yield made


def put(client, *data, namespace=API):
    """
    Send datums in one call.
    """
    client.put_metric_data(Namespace=namespace, MetricData=list(data))


def dimensions(**pairs):
    """
    Dimensions as boto3 wants them.
    """
    return [{"Name": name, "Value": value} for name, value in pairs.items()]


def test_what_was_accepted_can_be_asked_for(cloudwatch, client):
    """
    Sum, count, extremes, values and percentiles are those of all datums of the series.
    """
    put(client, {"MetricName": "Latency", "Values": [1.0, 2.0, 3.0], "Counts": [1, 2, 1]})
    put(client, {"MetricName": "Latency", "Value": 10.0})

    assert cloudwatch.sum(API, "Latency") == 18.0
    assert cloudwatch.count(API, "Latency") == 5.0
    assert cloudwatch.minimum(API, "Latency") == 1.0
    assert cloudwatch.maximum(API, "Latency") == 10.0
    assert cloudwatch.values(API, "Latency") == {1.0: 1.0, 2.0: 2.0, 3.0: 1.0, 10.0: 1.0}
    assert cloudwatch.percentile(API, "Latency", {}, 50) == 2.0
    assert cloudwatch.total_count() == 5.0


def test_a_series_without_data_has_no_statistics(cloudwatch):
    """
    Sum and count are zero, everything else is None or empty, and asking does not make it a series.
    """
    assert (cloudwatch.sum(API, "X"), cloudwatch.count(API, "X")) == (0.0, 0.0)
    assert cloudwatch.minimum(API, "X") is None
    assert cloudwatch.maximum(API, "X") is None
    assert cloudwatch.percentile(API, "X", None, 99) is None
    assert cloudwatch.values(API, "X") == {}
    assert cloudwatch.minutes(API, "X") == []
    assert cloudwatch.series() == []


def test_dimensions_are_exact_and_their_order_does_not_matter(cloudwatch, client):
    """
    No series is found by a part of its dimensions, and none adds up over the others.
    """
    put(client, {"MetricName": "Uploads", "Value": 1.0})
    put(client, {"MetricName": "Uploads", "Value": 10.0, "Dimensions": dimensions(Route="/a")})
    put(client, {"MetricName": "Uploads", "Value": 100.0, "Dimensions": dimensions(Route="/a", Tier="x")})
    put(client, {"MetricName": "Uploads", "Value": 200.0, "Dimensions": dimensions(Tier="x", Route="/a")})
    put(client, {"MetricName": "Uploads", "Value": 1000.0}, namespace="Other")

    assert cloudwatch.sum(API, "Uploads") == cloudwatch.sum(API, "Uploads", {}) == 1.0
    assert cloudwatch.sum(API, "Uploads", {"Route": "/a"}) == 10.0
    assert cloudwatch.sum(API, "Uploads", {"Tier": "x", "Route": "/a"}) == 300.0
    assert cloudwatch.sum(API, "Uploads", {"Tier": "x"}) == 0.0
    assert cloudwatch.series() == [
        ("Other", "Uploads", ()),
        (API, "Uploads", ()),
        (API, "Uploads", (("Route", "/a"),)),
        (API, "Uploads", (("Route", "/a"), ("Tier", "x"))),
    ]


def test_one_minute_can_be_looked_at(cloudwatch, client):
    """
    A datum belongs to the minute of its timestamp; without one, to that of its arrival.
    """
    put(client, {"MetricName": "Uploads", "Value": 1.0, "Timestamp": NOW - 1})
    put(client, {"MetricName": "Uploads", "Value": 2.0, "Timestamp": NOW + 59})
    put(client, {"MetricName": "Uploads", "Value": 4.0})

    assert cloudwatch.minutes(API, "Uploads") == [MINUTE - 60, MINUTE]
    assert cloudwatch.sum(API, "Uploads", minute=MINUTE - 60) == 1.0
    assert cloudwatch.sum(API, "Uploads", minute=MINUTE) == 6.0
    assert cloudwatch.sum(API, "Uploads", minute=MINUTE - 60, period=120) == 7.0
    assert cloudwatch.sum(API, "Uploads", minute=MINUTE + 60) == 0.0


def test_seconds_are_kept_apart_at_high_resolution_only(cloudwatch, client):
    """
    A one-second datum can be found by its second, a one-minute datum only by its minute.
    """
    for resolution in (1, 60):
        put(
            client,
            {"MetricName": f"R{resolution}", "Value": 1.0, "Timestamp": NOW + 7, "StorageResolution": resolution},
        )

    assert cloudwatch.count(API, "R1", minute=MINUTE + 7, period=1) == 1.0
    assert cloudwatch.count(API, "R60", minute=MINUTE + 7, period=1) == 0.0
    assert cloudwatch.count(API, "R60", minute=MINUTE, period=60) == 1.0
    assert cloudwatch.minutes(API, "R1") == [MINUTE]


def test_units_are_kept_apart(cloudwatch, client):
    """
    One unit can be looked at; without one, all are taken together.
    """
    put(client, {"MetricName": "Size", "Value": 1.0, "Unit": "Bytes"}, {"MetricName": "Size", "Value": 5.0})

    assert cloudwatch.sum(API, "Size", unit="Bytes") == 1.0
    assert cloudwatch.sum(API, "Size", unit="None") == 5.0
    assert cloudwatch.sum(API, "Size") == 6.0


def test_statistics_beside_values_give_the_sum_and_values_the_percentile(cloudwatch, client):
    """
    The exact statistics win over what the rounded values would add up to.
    """
    exact = {"SampleCount": 3.0, "Sum": 6.06, "Minimum": 1.01, "Maximum": 3.03}
    put(client, {"MetricName": "Latency", "Values": [1.0, 2.0, 3.0], "StatisticValues": exact})

    assert cloudwatch.sum(API, "Latency") == 6.06
    assert cloudwatch.count(API, "Latency") == 3.0
    assert cloudwatch.maximum(API, "Latency") == 3.03
    assert cloudwatch.percentile(API, "Latency", None, 50) == 2.0


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1.0), (1, 1.0), (50, 50.0), (99, 99.0), (99.5, 100.0), (100, 100.0)]
)
def test_a_percentile_is_the_nearest_rank(cloudwatch, client, percent, value):
    """
    Among the numbers from 1 to 100 every percentile is its own number.
    """
    put(client, {"MetricName": "Latency", "Values": [float(number) for number in range(1, 101)]})

    assert cloudwatch.percentile(API, "Latency", None, percent) == value


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"Value": -1.0}, None),
        ({"StatisticValues": {"SampleCount": 2, "Sum": 3, "Minimum": 1, "Maximum": 2}}, None),
        ({"StatisticValues": {"SampleCount": 2, "Sum": 6, "Minimum": 3, "Maximum": 3}}, 3.0),
        ({"StatisticValues": {"SampleCount": 1, "Sum": 3, "Minimum": 3, "Maximum": 3}}, 3.0),
    ],
)
def test_a_percentile_needs_the_values(cloudwatch, client, members, expected):
    """
    There is none with negative values, or when a statistic set hides them; a set of equal values hides nothing.
    """
    put(client, {"MetricName": "Latency", "Value": 3.0}, {"MetricName": "Latency", **members})

    assert cloudwatch.percentile(API, "Latency", None, 99) == expected


def test_counts_may_be_fractions_and_huge(cloudwatch, client):
    """
    A count is a number, not a loop.
    """
    put(client, {"MetricName": "Sampled", "Values": [2.0, 4.0], "Counts": [0.5, 1e12]})

    assert cloudwatch.count(API, "Sampled") == 1e12 + 0.5
    assert cloudwatch.sum(API, "Sampled") == 4e12 + 1.0
    assert cloudwatch.percentile(API, "Sampled", None, 50) == 4.0


def test_calls_are_recorded_with_their_outcome(cloudwatch, client):
    """
    An accepted and a refused call differ in status, code and whether the data was stored.
    """
    put(client, {"MetricName": "A", "Values": [1.0, 2.0]}, {"MetricName": "B", "Value": 1.0})
    with pytest.raises(ClientError):
        put(client, {"MetricName": "A", "Value": 1.0, "Unit": "Bananas"})

    good, bad = cloudwatch.calls
    assert (good.at, good.namespace, good.datums, good.values) == (NOW, API, 2, 3)
    assert (good.status, good.error_code, good.accepted) == (200, "", True)
    assert (bad.status, bad.error_code, bad.accepted) == (400, "InvalidParameterValue", False)
    assert good.metric_data[1] == {"MetricName": "B", "Value": 1.0}
    assert good.body_bytes == int(good.headers["content-length"])
    assert "authorization" not in good.headers
    assert (cloudwatch.accepted_calls, cloudwatch.rejected_calls) == ([good], [bad])


def test_answers_carry_a_request_id(client):
    """
    boto3 sees it on success and on errors, as proof that AWS has answered.
    """
    response = client.put_metric_data(Namespace=API, MetricData=[{"MetricName": "A", "Value": 1.0}])
    with pytest.raises(ClientError) as caught:
        put(client, {"MetricName": "A"})

    first = response["ResponseMetadata"]["RequestId"]
    second = caught.value.response["ResponseMetadata"]["RequestId"]
    assert first
    assert second
    assert first != second


def test_errors_have_the_old_and_the_new_name(client):
    """
    The code is that of the query protocol, and beside it stand the shape's name and the fault's side.
    """
    with pytest.raises(client.exceptions.InvalidParameterValueException) as caught:
        put(client, {"MetricName": "A", "Value": math.nan})

    error = caught.value.response["Error"]
    assert (error["Code"], error["QueryErrorCode"], error["Type"]) == (
        "InvalidParameterValue",
        "InvalidParameterValueException",
        "Sender",
    )


def test_waiting_ends_with_the_call_that_was_waited_for(cloudwatch, client):
    """
    It answers whether there have been enough calls, at once when there have.
    """
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(cloudwatch.wait_for_calls, 2)
        put(client, {"MetricName": "A", "Value": 1.0})
        put(client, {"MetricName": "A", "Value": 1.0})
        assert waiting.result(5)

    assert cloudwatch.wait_for_calls(2, timeout=0)
    assert not cloudwatch.wait_for_calls(3, timeout=0)


class TestReadingBack:
    """
    The same numbers through boto3.
    """

    def statistics(self, client, *, name="Latency", period=60, start=NOW - 60, end=NOW + 60, **query):
        answer = client.get_metric_statistics(
            Namespace=API, MetricName=name, StartTime=start, EndTime=end, Period=period, **query
        )
        return answer["Datapoints"]

    def data(self, client, *stats, period=60, start=NOW - 60, end=NOW + 60, metric=None, **query):
        metric = {"Namespace": API, "MetricName": "Latency", **(metric or {})}
        queries = [
            {"Id": f"q{number}", "MetricStat": {"Metric": metric, "Period": period, "Stat": stat}}
            for number, stat in enumerate(stats)
        ]
        answer = client.get_metric_data(MetricDataQueries=queries, StartTime=start, EndTime=end, **query)
        return dict(zip(stats, answer["MetricDataResults"], strict=True))

    def test_all_statistics_of_a_period(self, client):
        """
        `GetMetricStatistics` has one datapoint for the period that has data, at its start.
        """
        put(client, {"MetricName": "Latency", "Values": [1.0, 2.0, 6.0], "Timestamp": NOW + 30, "Unit": "Seconds"})

        names = ["SampleCount", "Sum", "Average", "Minimum", "Maximum"]
        (point,) = self.statistics(client, Statistics=names)

        assert [point[name] for name in names] == [3.0, 9.0, 3.0, 1.0, 6.0]
        assert point["Timestamp"] == datetime.fromtimestamp(MINUTE, timezone.utc)
        assert point["Unit"] == "Seconds"

    def test_percentiles_of_a_period(self, client):
        """
        Percentiles come as extended statistics, with their own digits.
        """
        put(client, {"MetricName": "Latency", "Values": [float(number) for number in range(1, 101)]})

        (point,) = self.statistics(client, ExtendedStatistics=["p50", "p99.5"])

        assert point["ExtendedStatistics"] == {"p50": 50.0, "p99.5": 100.0}

    def test_a_percentile_that_does_not_exist_is_no_datapoint(self, client):
        """
        As on AWS, what cannot be computed is left out.
        """
        put(client, {"MetricName": "Latency", "Value": -1.0})

        assert self.statistics(client, ExtendedStatistics=["p50"]) == []
        assert self.data(client, "p50")["p50"]["Values"] == []

    def test_every_unit_is_a_datapoint_of_its_own(self, client):
        """
        Units are never added up by `GetMetricStatistics`, and can be chosen.
        """
        put(client, {"MetricName": "Latency", "Value": 1.0, "Unit": "Bytes"}, {"MetricName": "Latency", "Value": 5.0})

        points = self.statistics(client, Statistics=["Sum"])

        assert {point["Unit"]: point["Sum"] for point in points} == {"Bytes": 1.0, "None": 5.0}
        assert [point["Sum"] for point in self.statistics(client, Statistics=["Sum"], Unit="Bytes")] == [1.0]

    def test_results_have_one_value_per_period(self, client):
        """
        `GetMetricData` answers every statistic, newest first unless asked otherwise.
        """
        put(client, {"MetricName": "Latency", "Values": [1.0, 3.0], "Timestamp": NOW - 60})
        put(client, {"MetricName": "Latency", "Value": 5.0, "Timestamp": NOW})

        results = self.data(client, "Sum", "SampleCount", "Average", "Minimum", "Maximum", "p100")

        assert {stat: result["Values"] for stat, result in results.items()} == {
            "Sum": [5.0, 4.0],
            "SampleCount": [1.0, 2.0],
            "Average": [5.0, 2.0],
            "Minimum": [5.0, 1.0],
            "Maximum": [5.0, 3.0],
            "p100": [5.0, 3.0],
        }
        assert results["Sum"]["StatusCode"] == "Complete"
        assert results["Sum"]["Timestamps"][0] == datetime.fromtimestamp(MINUTE, timezone.utc)
        assert self.data(client, "Sum", ScanBy="TimestampAscending")["Sum"]["Values"] == [4.0, 5.0]
        assert self.data(client, "Sum", period=180, start=NOW - 120)["Sum"]["Values"] == [9.0]
        assert self.data(client, "Sum", end=NOW)["Sum"]["Values"] == [4.0]

    def test_a_query_finds_exactly_its_dimensions(self, client):
        """
        No roll-up, no superset, any order.
        """
        both = dimensions(Route="/a", Tier="x")
        put(
            client, {"MetricName": "Latency", "Value": 1.0}, {"MetricName": "Latency", "Value": 2.0, "Dimensions": both}
        )

        assert self.data(client, "Sum")["Sum"]["Values"] == [1.0]
        assert self.data(client, "Sum", metric={"Dimensions": both[::-1]})["Sum"]["Values"] == [2.0]
        assert self.data(client, "Sum", metric={"Dimensions": both[:1]})["Sum"]["Values"] == []
        assert self.statistics(client, Statistics=["Sum"], Dimensions=both)[0]["Sum"] == 2.0

    def test_periods_below_a_minute_need_high_resolution(self, client):
        """
        Seconds are answered from one-second data only.
        """
        for resolution in (1, 60):
            put(client, {"MetricName": "Latency", "Value": float(resolution), "StorageResolution": resolution})

        assert self.data(client, "Sum", period=1)["Sum"]["Values"] == [1.0]
        assert self.data(client, "Sum", period=60)["Sum"]["Values"] == [61.0]

    def test_a_query_that_returns_no_data_is_left_out(self, client):
        """
        `ReturnData` false means what it says.
        """
        metric = {"Metric": {"Namespace": API, "MetricName": "A"}, "Period": 60, "Stat": "Sum"}
        queries = [{"Id": "a", "MetricStat": metric, "ReturnData": False}, {"Id": "b", "MetricStat": metric}]

        answer = client.get_metric_data(MetricDataQueries=queries, StartTime=NOW - 60, EndTime=NOW)

        assert [result["Id"] for result in answer["MetricDataResults"]] == ["b"]

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ({}, "InvalidParameterCombination"),
            ({"Statistics": ["Sum"], "ExtendedStatistics": ["p9"]}, "InvalidParameterCombination"),
            ({"Statistics": ["Sum"], "start": NOW - 86461}, "InvalidParameterCombination"),
            ({"Statistics": ["Sum"], "period": 7}, "InvalidParameterValue"),
            ({"Statistics": ["Sum"], "start": NOW, "end": NOW}, "InvalidParameterValue"),
            ({"Statistics": ["Median"]}, "InvalidParameterValue"),
            ({"ExtendedStatistics": ["p101"]}, "InvalidParameterValue"),
            ({"ExtendedStatistics": ["tm90"]}, "InvalidParameterValue"),
        ],
    )
    def test_a_query_that_makes_no_sense_is_refused(self, client, query, code):
        """
        Also when the series has no data, so that a wrong query is not mistaken for an empty answer.
        """
        with pytest.raises(ClientError) as caught:
            self.statistics(client, **query)

        assert caught.value.response["Error"]["Code"] == code

    @pytest.mark.parametrize(
        "queries",
        [
            [{"Id": "a", "Expression": "m1 * 2"}],
            [{"Id": "A", "MetricStat": {"Metric": {"Namespace": API, "MetricName": "A"}, "Period": 60, "Stat": "Sum"}}],
            [{"Id": "a", "MetricStat": {"Metric": {"Namespace": API, "MetricName": "A"}, "Period": 60, "Stat": "Sum"}}]
            * 2,
        ],
        ids=["expression", "bad id", "id twice"],
    )
    def test_metric_math_and_bad_ids_are_refused(self, client, queries):
        """
        What is not modelled is refused rather than answered wrongly.
        """
        with pytest.raises(ClientError) as caught:
            client.get_metric_data(MetricDataQueries=queries, StartTime=NOW - 60, EndTime=NOW)

        assert caught.value.response["Error"]["Code"] == "ValidationError"

    def test_metrics_are_listed_by_filter(self, client):
        """
        A filter by dimension finds every series that has it.
        """
        for pairs in ({}, {"Route": "/a"}, {"Route": "/b", "Tier": "x"}):
            put(client, {"MetricName": "Latency", "Value": 1.0, "Dimensions": dimensions(**pairs)})
        put(client, {"MetricName": "Uploads", "Value": 1.0}, namespace="Other")

        def listed(**query):
            return len(client.list_metrics(**query)["Metrics"])

        assert listed() == 4
        assert listed(Namespace=API) == 3
        assert listed(MetricName="Uploads") == 1
        assert listed(Dimensions=[{"Name": "Route"}]) == 2
        assert listed(Dimensions=[{"Name": "Route", "Value": "/b"}]) == 1
        (found,) = client.list_metrics(Dimensions=[{"Name": "Tier", "Value": "x"}])["Metrics"]
        assert found == {"Namespace": API, "MetricName": "Latency", "Dimensions": dimensions(Route="/b", Tier="x")}

    def test_metrics_are_listed_in_pages(self, client):
        """
        A page has 500 metrics, and boto3's paginator finds the rest.
        """
        put(client, *({"MetricName": f"m{number:04}", "Value": 1.0} for number in range(501)))

        pages = [len(page["Metrics"]) for page in client.get_paginator("list_metrics").paginate(Namespace=API)]

        assert pages == [500, 1]


def test_clients_in_many_threads_lose_nothing(cloudwatch, client):
    """
    Everything that was answered with success is counted exactly once.
    """
    data = [{"MetricName": "Uploads", "Values": [1.0, 2.0], "Dimensions": dimensions(Route=f"/{n}")} for n in range(5)]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(put, client, *data) for _ in range(80)]:
            done.result()

    assert cloudwatch.total_count() == 80 * 5 * 2
    assert [cloudwatch.sum(API, "Uploads", {"Route": f"/{n}"}) for n in range(5)] == [240.0] * 5
    assert len(cloudwatch.accepted_calls) == 80


def test_starting_and_stopping_twice_does_nothing(connect):
    """
    Both are idempotent, the data outlives the server, and a stopped server refuses connections.
    """
    server = FakeCloudWatch(now=lambda: NOW)
    server.stop()
    url = server.start().endpoint_url
    assert server.start().endpoint_url == url

    with connect(server) as client:
        put(client, {"MetricName": "A", "Value": 1.0})
        server.stop()
        server.stop()
        with pytest.raises(EndpointConnectionError):
            put(client, {"MetricName": "A", "Value": 1.0})

    assert server.sum(API, "A") == 1.0
    with pytest.raises(RuntimeError, match="start"):
        _ = server.endpoint_url


def test_a_stopped_server_can_be_started_again(connect):
    """
    It keeps what it had.
    """
    server = FakeCloudWatch(now=lambda: NOW)
    for expected in (1.0, 2.0):
        with server, connect(server) as client:
            put(client, {"MetricName": "A", "Value": 1.0})
        assert server.sum(API, "A") == expected


def test_stopping_ends_idle_connections_and_leaves_no_thread(connect):
    """
    A client that keeps its connection alive does not keep the server alive.
    """
    before = set(threading.enumerate())
    with FakeCloudWatch(now=lambda: NOW) as server, connect(server) as client:
        put(client, {"MetricName": "A", "Value": 1.0})
        assert any(thread.name == "fake-cloudwatch-connection" for thread in threading.enumerate())
        server.stop()
        assert set(threading.enumerate()) == before
    gc.collect()  # a socket that was forgotten would warn here, and warnings are errors


def test_construction_opens_nothing():
    """
    A server that was never started has no thread and no address.
    """
    before = set(threading.enumerate())

    server = FakeCloudWatch()

    assert set(threading.enumerate()) == before
    assert repr(server) == "<FakeCloudWatch stopped: 0 calls, 0 accepted, 0 measurements>"


def test_the_clock_is_the_systems_unless_one_is_given(connect):
    """
    Without a clock of its own the server accepts what is stamped now.
    """
    with FakeCloudWatch() as server, connect(server) as client:
        put(client, {"MetricName": "A", "Value": 1.0, "Timestamp": datetime.now(timezone.utc)})

        assert server.count(API, "A") == 1.0
