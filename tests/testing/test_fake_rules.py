"""
Every rule of `PutMetricData`, accepted at its limit and refused one beyond, through a real boto3 client.
"""

from __future__ import annotations

import http.client
import json
import math
import re
from contextlib import closing

import pytest
from botocore.exceptions import ClientError

from retainwise_metrics.testing.fake_cloudwatch import FakeCloudWatch
from retainwise_metrics.units import MetricUnit

NOW = 1_700_000_040.0
VALUE = "InvalidParameterValue"
COMBINATION = "InvalidParameterCombination"
MISSING = "MissingParameter"
FIRST = "MetricData.member.1"


@pytest.fixture(scope="module")
def strict():
    """
    One server for the whole table.
    """
    with FakeCloudWatch(now=lambda: NOW) as server:
        yield server


@pytest.fixture(scope="module")
def unchecked(strict, connect):
    """
    A client that leaves all checks to the server, as the library's own does.
    """
    with connect(strict, parameter_validation=False) as made:
        yield made


def datum(**members):
    """
    A valid datum, with some members set; None takes one out.
    """
    merged = {"MetricName": "Uploads", "Value": 1.0, **members}
    return {name: value for name, value in merged.items() if value is not None}


def several(**members):
    """
    A datum with something else than a single value.
    """
    return datum(Value=None, **members)


def dimensions(*pairs):
    """
    Dimensions as boto3 wants them.
    """
    return [{"Name": name, "Value": value} for name, value in pairs]


def statistics(count=3.0, total=6.0, low=1.0, high=3.0):
    """
    A statistic set, consistent unless told otherwise.
    """
    return {"SampleCount": count, "Sum": total, "Minimum": low, "Maximum": high}


def put(client, *data, namespace="Test"):
    """
    Send datums; None when they are accepted, else code, message and status.
    """
    try:
        client.put_metric_data(Namespace=namespace, MetricData=list(data))
    except ClientError as error:
        response = error.response
        return response["Error"]["Code"], response["Error"]["Message"], response["ResponseMetadata"]["HTTPStatusCode"]
    return None


ACCEPTED = {
    "255 characters of name": datum(MetricName="n" * 255),
    "every printable character": datum(MetricName="".join(map(chr, range(32, 127)))),
    "30 dimensions": datum(Dimensions=dimensions(*((f"d{number}", "v") for number in range(30)))),
    "longest dimension": datum(Dimensions=dimensions(("d" * 255, "v" * 1024))),
    "a value with a leading colon": datum(Dimensions=dimensions(("d", ":v"))),
    "two weeks ago": datum(Timestamp=NOW - 14 * 86400),
    "in two hours": datum(Timestamp=NOW + 2 * 3600),
    "one-second resolution": datum(StorageResolution=1),
    "one-minute resolution": datum(StorageResolution=60),
    "zero": datum(Value=0.0),
    "largest value": datum(Value=2.0**360),
    "smallest value": datum(Value=-(2.0**360)),
    "whole number": datum(Value=7),
    "150 values": several(Values=[float(number) for number in range(150)]),
    "values with counts": several(Values=[1.0, 2.0], Counts=[3, 0.5]),
    "values beside statistics": several(Values=[1.0, 3.0], StatisticValues=statistics()),
    "statistics": several(StatisticValues=statistics()),
    "one sample as statistics": several(StatisticValues=statistics(1, 5, 5, 5)),
    "statistics with rounding": several(StatisticValues=statistics(10, 0.9999999999999999, 0.1, 0.1)),
    "negative statistics": several(StatisticValues=statistics(2, -3, -2, -1)),
    "no unit": datum(Unit="None"),
}


@pytest.mark.parametrize("accepted", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_datum_at_a_limit_is_accepted(strict, unchecked, accepted):
    """
    What keeps a rule exactly is stored.
    """
    before = strict.total_count()

    assert put(unchecked, accepted) is None
    assert strict.total_count() > before


REFUSED = {
    "no name": (datum(MetricName=None), MISSING, f"The parameter {FIRST}.MetricName is required."),
    "empty name": (datum(MetricName=""), MISSING, f"{FIRST}.MetricName is required."),
    "long name": (datum(MetricName="n" * 256), VALUE, f"{FIRST}.MetricName must be shorter than 256 characters."),
    "blank name": (datum(MetricName=" "), VALUE, f"{FIRST}.MetricName must contain at least one non-whitespace"),
    "name in another script": (
        datum(MetricName="na\u00efve"),
        VALUE,
        f"{FIRST}.MetricName contains non-ASCII characters.",
    ),
    "line break in a name": (datum(MetricName="a\nb"), VALUE, f"{FIRST}.MetricName contains control characters."),
    "last control character in a name": (datum(MetricName="a\x1f"), VALUE, f"{FIRST}.MetricName contains control"),
    "delete in a name": (datum(MetricName="a\x7f"), VALUE, f"{FIRST}.MetricName contains control characters."),
    "31 dimensions": (
        datum(Dimensions=dimensions(*((f"d{number}", "v") for number in range(31)))),
        VALUE,
        f"The collection {FIRST}.Dimensions must not have a size greater than 30.",
    ),
    "dimension twice": (datum(Dimensions=dimensions(("d", "1"), ("d", "2"))), VALUE, f"{FIRST}.Dimensions must not"),
    "long dimension name": (
        datum(Dimensions=dimensions(("d" * 256, "v"))),
        VALUE,
        f"{FIRST}.Dimensions.member.1.Name must be shorter than 256 characters.",
    ),
    "long dimension value": (
        datum(Dimensions=dimensions(("a", "v"), ("d", "v" * 1025))),
        VALUE,
        f"{FIRST}.Dimensions.member.2.Value must be shorter than 1025 characters.",
    ),
    "dimension with a leading colon": (
        datum(Dimensions=dimensions((":d", "v"))),
        VALUE,
        f"{FIRST}.Dimensions.member.1.Name must not start with a colon",
    ),
    "empty dimension value": (
        datum(Dimensions=dimensions(("d", ""))),
        MISSING,
        f"{FIRST}.Dimensions.member.1.Value is required.",
    ),
    "blank dimension value": (
        datum(Dimensions=dimensions(("d", "\t "))),
        VALUE,
        f"{FIRST}.Dimensions.member.1.Value must contain at least one",
    ),
    "dimension value in another script": (
        datum(Dimensions=dimensions(("d", "caf\u00e9"))),
        VALUE,
        f"The value for parameter {FIRST}.Dimensions.member.1.Value contains non-ASCII characters.",
    ),
    "too old": (datum(Timestamp=NOW - 14 * 86400 - 1), VALUE, f"{FIRST}.Timestamp must specify a time within the past"),
    "too new": (datum(Timestamp=NOW + 2 * 3600 + 1), VALUE, f"{FIRST}.Timestamp must specify a time within the past"),
    "unknown unit": (datum(Unit="Bananas"), VALUE, f"The parameter {FIRST}.Unit must be a value in the set [ Seconds,"),
    "unit in lower case": (datum(Unit="count"), VALUE, f"{FIRST}.Unit must be a value in the set"),
    "resolution of 5": (datum(StorageResolution=5), VALUE, f"{FIRST}.StorageResolution must be a value in the set"),
    "NaN": (datum(Value=math.nan), VALUE, f"The value NaN for parameter {FIRST}.Value is invalid."),
    "infinity": (datum(Value=math.inf), VALUE, f"The value Infinity for parameter {FIRST}.Value is invalid."),
    "minus infinity": (datum(Value=-math.inf), VALUE, f"The value -Infinity for parameter {FIRST}.Value is invalid."),
    "too large": (datum(Value=math.nextafter(2.0**360, math.inf)), VALUE, f"for parameter {FIRST}.Value is invalid."),
    "too small": (datum(Value=-(2.0**361)), VALUE, f"for parameter {FIRST}.Value is invalid."),
    "NaN among values": (several(Values=[1.0, math.nan]), VALUE, f"for parameter {FIRST}.Values.member.2 is invalid."),
    "151 values": (
        several(Values=[float(number) for number in range(151)]),
        VALUE,
        f"The collection {FIRST}.Values must not have a size greater than 150.",
    ),
    "value twice": (several(Values=[1.0, 1]), VALUE, f"{FIRST}.Values must not contain a value more than once."),
    "counts missing": (several(Values=[1.0, 2.0], Counts=[1]), VALUE, f"{FIRST}.Counts must be of the same"),
    "counts alone": (datum(Counts=[1.0]), VALUE, f"{FIRST}.Values and {FIRST}.Counts must be of the same size."),
    "count of zero": (several(Values=[1.0], Counts=[0]), VALUE, f"The value 0 for parameter {FIRST}.Counts.member.1"),
    "count below zero": (several(Values=[1.0], Counts=[-1]), VALUE, f"{FIRST}.Counts.member.1 is invalid."),
    "count that is NaN": (several(Values=[1.0], Counts=[math.nan]), VALUE, f"{FIRST}.Counts.member.1 is invalid."),
    "value and values": (
        datum(Value=0.0, Values=[1.0]),
        COMBINATION,
        f"The parameters {FIRST}.Value and {FIRST}.Values are mutually exclusive and you have specified both.",
    ),
    "value and statistics": (
        datum(Value=0.0, StatisticValues=statistics()),
        COMBINATION,
        f"The parameters {FIRST}.Value and {FIRST}.StatisticValues are mutually exclusive and you have specified both.",
    ),
    "no value at all": (several(), COMBINATION, f"At least one of the parameters {FIRST}.Value and"),
    "empty values": (several(Values=[], Counts=[]), COMBINATION, f"At least one of the parameters {FIRST}.Value and"),
    "no samples": (several(StatisticValues=statistics(0, 0, 0, 0)), VALUE, ".SampleCount must not equal 0."),
    "samples below zero": (several(StatisticValues=statistics(-1)), VALUE, ".SampleCount must be greater than 0."),
    "extremes reversed": (
        several(StatisticValues=statistics(low=3.0, high=1.0)),
        VALUE,
        f"{FIRST}.StatisticValues.Maximum must be greater than {FIRST}.StatisticValues.Minimum.",
    ),
    "impossible sum": (several(StatisticValues=statistics(total=9.1)), VALUE, f"{FIRST}.StatisticValues.Sum must lie"),
    "statistic missing": (
        several(StatisticValues={"SampleCount": 1.0, "Sum": 1.0, "Minimum": 1.0}),
        MISSING,
        f"The parameter {FIRST}.StatisticValues.Maximum is required.",
    ),
    "statistic too large": (
        several(StatisticValues=statistics(total=2.0**361)),
        VALUE,
        f"{FIRST}.StatisticValues.Sum is invalid.",
    ),
}


@pytest.mark.parametrize(("refused", "code", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_datum_beyond_a_limit_is_refused(strict, unchecked, refused, code, message):
    """
    The request is answered with AWS's code and a message that names the member and the field.
    """
    before = strict.total_count()

    answered_code, answered_message, status = put(unchecked, refused)

    assert (answered_code, status) == (code, 400)
    assert message in answered_message
    assert strict.total_count() == before


NAMESPACES = {
    "empty": ("", MISSING, "The parameter Namespace is required."),
    "long": ("n" * 256, VALUE, "The parameter Namespace must be shorter than 256 characters."),
    "reserved": ("AWS/EC2", VALUE, "The value AWS/ for parameter Namespace is invalid."),
    "leading colon": (":Test", VALUE, "The parameter Namespace must not start with a colon"),
    "blank": ("  ", VALUE, "The parameter Namespace must contain at least one non-whitespace character."),
    "another script": ("T\u00e9st", VALUE, "The value for parameter Namespace contains non-ASCII characters."),
    "control character": ("Te\tst", VALUE, "The value for parameter Namespace contains control characters."),
}


@pytest.mark.parametrize(("namespace", "code", "message"), NAMESPACES.values(), ids=NAMESPACES.keys())
def test_a_bad_namespace_is_refused(unchecked, namespace, code, message):
    """
    The message names the parameter and no member.
    """
    answered_code, answered_message, status = put(unchecked, datum(), namespace=namespace)

    assert (answered_code, status) == (code, 400)
    assert message in answered_message
    assert "member" not in answered_message


@pytest.mark.parametrize("namespace", ["n" * 255, "AWSome/Test", "Retain:Wise/#1"])
def test_a_good_namespace_is_accepted(unchecked, namespace):
    """
    The longest, and those that only look like a reserved one, pass.
    """
    assert put(unchecked, datum(), namespace=namespace) is None


@pytest.mark.parametrize("unit", list(MetricUnit))
def test_every_unit_is_accepted(unchecked, unit):
    """
    The server's own list of units agrees with the library's.
    """
    assert put(unchecked, datum(Unit=unit.value)) is None


def test_a_thousand_datums_are_accepted_and_one_more_is_not(unchecked):
    """
    The limit counts datums, and its message no member.
    """
    assert put(unchecked, *[datum()] * 1000) is None

    code, message, status = put(unchecked, *[datum()] * 1001)

    assert (code, status) == (VALUE, 400)
    assert message == "The collection MetricData must not have a size greater than 1000."


def test_a_request_without_datums_is_refused(unchecked):
    """
    An empty list is as good as none.
    """
    assert put(unchecked) == (MISSING, "The parameter MetricData is required.", 400)


def test_one_bad_datum_refuses_all_and_every_bad_one_is_named(strict, unchecked):
    """
    Nothing of the request is stored, and each line of the message names one problem.
    """
    data = [datum(MetricName="Atomic") for _ in range(5)]
    data[1]["Value"] = math.nan
    data[4]["Unit"] = "Bananas"

    _, message, _ = put(unchecked, *data)

    assert [int(found) for found in re.findall(r"MetricData\.member\.(\d+)", message)] == [2, 5]
    assert len(message.splitlines()) == 2
    assert strict.count("Test", "Atomic") == 0


def post(server, body, **headers):
    """
    Send bytes without boto3, which would not send them; returns the status and the decoded answer.
    """
    defaults = {
        "Authorization": "AWS4-HMAC-SHA256 ...",
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Target": "GraniteServiceVersion20100801.PutMetricData",
    }
    sent = {name: value for name, value in {**defaults, **headers}.items() if value is not None}
    connection = http.client.HTTPConnection(server.endpoint_url.removeprefix("http://"), timeout=5)
    with closing(connection):
        connection.request("POST", "/", body, sent)
        response = connection.getresponse()
        assert "x-amzn-query-error" not in response.headers  # only who asks for query mode gets it
        return response.status, json.loads(response.read())


@pytest.mark.parametrize(
    "members",
    [
        {"Value": "12"},
        {"Value": True},
        {"Value": [1.0]},
        {"Values": 1.0},
        {"Values": [None]},
        {"Dimensions": {"a": "b"}},
        {"Dimensions": ["a"]},
        {"MetricName": 7},
        {"StorageResolution": "1"},
        {"StatisticValues": [1.0]},
        {"Metricname": "typo"},
    ],
)
def test_a_member_of_the_wrong_type_or_name_is_refused(strict, members):
    """
    The message names the member although the rules were never asked.
    """
    payload = {"Namespace": "Test", "MetricData": [{"MetricName": "Uploads", **members}]}

    status, answer = post(strict, json.dumps(payload))

    assert (status, answer["__type"]) == (400, "SerializationException")
    assert FIRST in answer["message"]


@pytest.mark.parametrize(("number", "spelled"), [("1" + "0" * 400, "Infinity"), ("-1" + "0" * 400, "-Infinity")])
def test_an_integer_beyond_a_float_is_infinite(strict, number, spelled):
    """
    JSON has no largest number, CloudWatch has.
    """
    body = json.dumps({"Namespace": "Test", "MetricData": [datum(Value="number")]}).replace('"number"', number)

    status, answer = post(strict, body)

    assert (status, answer["__type"]) == (400, "InvalidParameterValueException")
    assert answer["message"] == f"The value {spelled} for parameter {FIRST}.Value is invalid."


@pytest.mark.parametrize(
    ("body", "headers", "status", "kind"),
    [
        (b"{", {}, 400, "SerializationException"),
        (b"[]", {}, 400, "SerializationException"),
        (b"\xff", {}, 400, "SerializationException"),
        (b'{"Namespace": NaN}', {}, 400, "SerializationException"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "SerializationException"),
        (b"{}", {"Authorization": None}, 403, "MissingAuthenticationTokenException"),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 400, "UnsupportedProtocolException"),
        (b"{}", {"X-Amz-Target": "GraniteServiceVersion20100801.PutMetricAlarm"}, 400, "UnknownOperationException"),
        (b"{}", {}, 400, "MissingRequiredParameterException"),
    ],
)
def test_what_is_no_proper_request_is_refused(strict, body, headers, status, kind):
    """
    Broken bodies, unsigned requests, other protocols and unknown operations each have their own error.
    """
    answered, answer = post(strict, body, **headers)

    assert (answered, answer["__type"]) == (status, kind)


def test_an_entity_is_refused_rather_than_ignored(strict):
    """
    A request whose data would vanish is not accepted.
    """
    payload = {"Namespace": "Test", "MetricData": [datum()], "EntityMetricData": [{"MetricData": [datum()]}]}

    status, answer = post(strict, json.dumps(payload))

    assert status == 400
    assert "EntityMetricData" in answer["message"]


def test_the_size_limit_counts_the_body_without_compression(connect):
    """
    A body of exactly the limit passes, one byte more is 413, and gzip does not help.
    """
    padding = dimensions(*((f"d{number}", "v" * 1000) for number in range(20)))
    with FakeCloudWatch(now=lambda: NOW) as probe, connect(probe) as client:
        assert put(client, datum(Dimensions=padding)) is None
        size = probe.calls[0].body_bytes
        assert probe.calls[0].compressed

    with FakeCloudWatch(now=lambda: NOW, max_body_bytes=size) as exact, connect(exact) as client:
        assert put(client, datum(Dimensions=padding)) is None

    with FakeCloudWatch(now=lambda: NOW, max_body_bytes=size - 1) as small, connect(small) as client:
        code, message, status = put(client, datum(Dimensions=padding))
        assert (code, status) == ("RequestEntityTooLarge", 413)
        assert message == f"Request size {size} exceeded {size - 1} bytes"
        assert small.total_count() == 0


def test_a_body_that_is_too_large_is_not_read():
    """
    Its size is what is refused, whatever it contains.
    """
    with FakeCloudWatch(max_body_bytes=3) as server:
        status, answer = post(server, b"{{{{")

    assert (status, answer["__type"]) == (413, "RequestEntityTooLargeException")


def test_the_size_limit_is_a_million_bytes(unchecked):
    """
    By default the smallest reading of 1 MB applies.
    """
    data = [datum(Dimensions=dimensions(*((f"d{number}", "v" * 1000) for number in range(28)))) for _ in range(36)]

    code, message, _ = put(unchecked, *data)

    assert code == "RequestEntityTooLarge"
    assert message.endswith("exceeded 1000000 bytes")


def test_without_compression_the_same_data_arrives(connect):
    """
    A large body is gzipped by default, and the switch for that is seen in the call.
    """
    data = [datum(Value=float(number)) for number in range(500)]
    with FakeCloudWatch(now=lambda: NOW) as server:
        for options in ({}, {"disable_request_compression": True}):
            with connect(server, **options) as client:
                assert put(client, *data) is None
        zipped, plain = server.calls

    assert (zipped.compressed, plain.compressed) == (True, False)
    assert zipped.body_bytes == plain.body_bytes
    assert zipped.metric_data == plain.metric_data
