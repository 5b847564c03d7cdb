"""What a record must look like, field by field: the last value that is taken, the first that is not, and what is said about it."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from itertools import count
from types import MappingProxyType
from unittest.mock import MagicMock

import numpy as np
import pytest

from retainwise_metrics import InvalidMetricError, MetricNamespace, MetricUnit, StorageResolution, checks

NOW = 1_767_225_600.0
"""2026-01-01T00:00:00Z."""

DAY = 86_400.0


class Loud:
    """Whatever it is asked, it raises."""

    def _raise(self, *_: object) -> None:
        message = "alice@example.com"
        raise ZeroDivisionError(message)

    __str__ = __repr__ = __float__ = __int__ = __index__ = __bool__ = __len__ = __iter__ = __hash__ = _raise  # type: ignore[assignment]
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __getitem__ = __contains__ = keys = items = _raise  # type: ignore[assignment]

    @property
    def __class__(self) -> type:  # type: ignore[override]
        """Even its type is a question it does not answer."""
        raise ZeroDivisionError


class Text(str):
    """A string that lies about everything."""

    __slots__ = ()

    def __str__(self) -> str:
        return "lie"

    def strip(self, *_: object) -> str:
        return ""

    def isascii(self) -> bool:
        return False

    def __len__(self) -> int:
        return 10_000


class Color(str, enum.Enum):
    """Metric names as people write them."""

    RED = "Red"


class Level(enum.IntEnum):
    """Numbers as people write them."""

    HIGH = 3


class Meta(type):
    """A metaclass with its own idea of a name."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise ZeroDivisionError


class Nameless(metaclass=Meta):
    """A class whose name cannot be asked for."""


class NoOffset(tzinfo):
    """A time zone that does not know its offset."""

    def utcoffset(self, _: datetime | None) -> None:
        return None


class BrokenOffset(tzinfo):
    """A time zone that raises."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        message = "alice@example.com"
        raise KeyError(message)


class WrongTimestamp(datetime):
    """A datetime whose own epoch is no number."""

    def timestamp(self) -> float:
        return "yesterday"  # type: ignore[return-value]


def rows(*cases: object) -> list[object]:
    """Cases by number: some values must not be asked for a name."""
    return [
        pytest.param(*(case if type(case) is tuple else (case,)), id=str(index)) for index, case in enumerate(cases)
    ]


def refusal(check: object, *arguments: object) -> InvalidMetricError:
    """What a check says about something wrong."""
    with pytest.raises(InvalidMetricError) as caught:
        check(*arguments)  # type: ignore[operator]
    assert "alice" not in str(caught.value)
    return caught.value


# ---- names and namespaces ----


ALL_BUT_PERSONAL = "".join(chr(code) for code in range(32, 127) if chr(code) not in "@0123456789")
"""Printable ASCII without what makes a text look like an e-mail address or a telephone number."""


@pytest.mark.parametrize(
    ("name", "taken"),
    rows(
        ("M", "M"),
        ("x" * 255, "x" * 255),
        ("a b", "a b"),
        (" padded ", " padded "),
        (ALL_BUT_PERSONAL, ALL_BUT_PERSONAL),
        (Color.RED, "Red"),
        (np.str_("M"), "M"),
        (Text("truth"), "truth"),
    ),
)
def test_a_name_of_printable_ascii_is_taken_as_plain_text(name: str, taken: str) -> None:
    """Subclasses of str are taken for the text they hold, whatever their methods say."""
    checked = checks.checked_name(name)
    assert checked == taken
    assert type(checked) is str


@pytest.mark.parametrize(
    ("name", "says"),
    rows(
        ("", "empty"),
        ("   ", "blank"),
        ("\t", "blank"),
        ("x" * 256, "255"),
        ("é", "printable ASCII"),
        ("a\nb", "printable ASCII"),
        ("a\x7fb", "printable ASCII"),
        ("\ud800", "printable ASCII"),
        ("名前", "printable ASCII"),
        (None, "not None"),
        (5, "not 5"),
        (b"M", "a bytes"),
        (["M"], "a list"),
        (MagicMock(spec=str), "a MagicMock"),
        (Loud(), "a Loud"),
        (Nameless(), "a Nameless"),
    ),
)
def test_another_name_is_refused_with_what_is_wrong(name: object, says: str) -> None:
    """The message says what the limit is or what was given instead."""
    error = refusal(checks.checked_name, name)
    assert error.field == "name"
    assert "metric name" in str(error)
    assert says in str(error)


@pytest.mark.parametrize(
    "namespace", rows("N", "n" * 255, "RetainWise/API", "a.b-c_d/e#f:g h", MetricNamespace.API, "aws/x")
)
def test_a_namespace_of_the_documented_characters_is_taken(namespace: str) -> None:
    """Letters, digits, blank and . - _ / # : (CloudWatch user guide)."""
    assert checks.checked_namespace(namespace) == str(namespace)


@pytest.mark.parametrize(
    ("namespace", "says"),
    rows(
        ("", "empty"),
        (" ", "blank"),
        ("n" * 256, "255"),
        ("AWS/EC2", "AWS/"),
        ("AWS/", "AWS/"),
        (":n", '":"'),
        ("a@b", "'@'"),
        ("a\\b", "allowed are"),
        ("é", "printable ASCII"),
        (7, "not 7"),
        (MagicMock(spec=str), "a MagicMock"),
        (Loud(), "a Loud"),
    ),
)
def test_another_namespace_is_refused_with_what_is_wrong(namespace: object, says: str) -> None:
    """Reserved beginnings and other characters never reach the service, which would refuse the whole call."""
    error = refusal(checks.checked_namespace, namespace)
    assert error.field == "namespace"
    assert says in str(error)


# ---- units and resolutions ----


@pytest.mark.parametrize("unit", list(MetricUnit))
def test_every_unit_is_taken_as_member_and_as_text(unit: MetricUnit) -> None:
    """All 27, in both spellings, mean the text on the wire."""
    assert checks.checked_unit(unit) == unit.value
    assert checks.checked_unit(str(unit)) == unit.value
    assert type(checks.checked_unit(unit)) is str
    assert len(MetricUnit) == 27


@pytest.mark.parametrize(
    "unit", rows("count", "COUNT", "", "Furlongs", None, 5, [], {}, object(), MagicMock(), Loud(), b"Count")
)
def test_another_unit_is_refused_with_the_remedy(unit: object) -> None:
    """Units are case-sensitive; the message names the enum."""
    error = refusal(checks.checked_unit, unit)
    assert error.field == "unit"
    assert "MetricUnit" in str(error)


@pytest.mark.parametrize(
    ("resolution", "taken"), rows((1, 1), (60, 60), *((each, int(each)) for each in StorageResolution))
)
def test_the_two_resolutions_are_taken(resolution: int, taken: int) -> None:
    """As a number or as a member."""
    checked = checks.checked_resolution(resolution)
    assert checked == taken
    assert type(checked) is int


@pytest.mark.parametrize(
    "resolution", rows(0, 2, 59, 61, -1, True, 1.0, 60.0, "60", None, MagicMock(spec=int), Loud(), 10**5000)
)
def test_another_resolution_is_refused(resolution: object) -> None:
    """Equal is not enough: True and 1.0 equal 1."""
    error = refusal(checks.checked_resolution, resolution)
    assert error.field == "storage_resolution"
    assert "1 or 60" in str(error)


# ---- values ----


@pytest.mark.parametrize(
    ("value", "number"),
    rows(
        (0, 0),
        (-0.0, 0.0),
        (2.0**360, 2.0**360),
        (-(2.0**360), -(2.0**360)),
        (2**360, 2.0**360),
        (5e-324, 5e-324),
        (True, 1.0),
        (Level.HIGH, 3.0),
        (Decimal("0.1"), 0.1),
        (Fraction(1, 4), 0.25),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.float16(2), 2.0),
        (np.longdouble(2), 2.0),
        (np.int64(-7), -7.0),
        (np.uint8(255), 255.0),
        (np.bool_(True), 1.0),
        (np.array(4.5), 4.5),
    ),
)
def test_a_number_of_any_kind_is_taken(value: object, number: float) -> None:
    """The result is a plain float or int, so that nothing later depends on where it came from."""
    checked = checks.checked_value(value)
    assert checked == number
    assert type(checked) in (int, float)


@pytest.mark.parametrize(
    ("value", "says"),
    rows(
        (math.nan, "2**360"),
        (math.inf, "2**360"),
        (-math.inf, "2**360"),
        (math.nextafter(2.0**360, math.inf), "2**360"),
        (-math.nextafter(2.0**360, math.inf), "2**360"),
        (2**360 + 1, "2**360"),
        (10**5000, "an int of 16610 bits"),
        (-(10**5000), "an int of"),
        (Decimal("NaN"), "2**360"),
        (Decimal("sNaN"), "Decimal"),
        (Decimal("1e400"), "2**360"),
        (Fraction(10**400), "2**360"),
        (np.float32("nan"), "2**360"),
        (np.float64("inf"), "2**360"),
        (np.array([1.0, 2.0]), "a ndarray"),
        ("5", "not '5'"),
        (np.str_("5"), "a str_"),
        (b"5", "a bytes"),
        (bytearray(b"5"), "a bytearray"),
        (None, "not None"),
        (1j, "a complex"),
        ([1], "a list"),
        (object(), "a object"),
        (Loud(), "a Loud"),
        (Nameless(), "a Nameless"),
        (float, "a type"),
    ),
)
def test_what_is_not_a_finite_number_in_range_is_refused(value: object, says: str) -> None:
    """Text is refused even if it reads like a number; the message says what was given."""
    error = refusal(checks.checked_value, value)
    assert error.field == "value"
    assert says in str(error)


# ---- timestamps ----


@pytest.mark.parametrize(
    "timestamp",
    rows(
        NOW,
        int(NOW),
        np.float64(NOW),
        np.int64(NOW),
        Decimal(int(NOW)),
        datetime(2026, 1, 1, tzinfo=timezone.utc),
        datetime(2026, 1, 1, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        datetime(2026, 1, 1),  # noqa: DTZ001 - naive is what this is about
    ),
)
def test_a_moment_in_any_form_becomes_epoch_seconds(timestamp: object) -> None:
    """Aware datetimes are converted, naive ones are UTC, numbers are seconds since the epoch."""
    assert checks.checked_timestamp(timestamp, NOW) == NOW


@pytest.mark.parametrize("seconds", rows(-14 * DAY, 7_200.0, 0.0))
def test_the_edges_of_the_window_are_taken(seconds: float) -> None:
    """Two weeks back to two hours ahead."""
    assert checks.checked_timestamp(NOW + seconds, NOW) == NOW + seconds
    moment = datetime.fromtimestamp(NOW + seconds, timezone.utc)
    assert checks.checked_timestamp(moment, NOW) == NOW + seconds


@pytest.mark.parametrize(
    ("timestamp", "says"),
    rows(
        (NOW - 14 * DAY - 1, "-14.00 days"),
        (NOW + 7_201, "+0.08 days"),
        (0, "two weeks"),
        (-1, "two weeks"),
        (NOW * 1000, "milliseconds"),
        (10**400, "milliseconds"),
        (math.inf, "milliseconds"),
        (-math.inf, "two weeks"),
        (math.nan, "not nan"),
        (True, "not True"),
        ("2026-01-01T00:00:00Z", "'2026-01-01T00:00:00Z'"),
        (b"now", "a bytes"),
        ([], "a list"),
        (datetime.max, "days"),  # noqa: DTZ901
        (datetime.min, "days"),  # noqa: DTZ901
        (datetime(2026, 1, 1, tzinfo=NoOffset()), "no offset"),
        (datetime(2026, 1, 1, tzinfo=BrokenOffset()), "no offset"),
        (WrongTimestamp(2026, 1, 1, tzinfo=timezone.utc), "no offset"),
        (MagicMock(spec=datetime), "a MagicMock"),
        (Loud(), "a Loud"),
    ),
)
def test_another_moment_is_refused_with_what_is_wrong(timestamp: object, says: str) -> None:
    """Outside the window, in milliseconds, or not a moment at all."""
    error = refusal(checks.checked_timestamp, timestamp, NOW)
    assert error.field == "timestamp"
    assert "timestamp" in str(error)
    assert says in str(error)


# ---- dimensions ----


class Endless(Mapping[str, object]):
    """A mapping without an end."""

    def __getitem__(self, name: str) -> object:
        return name

    def __iter__(self) -> Iterator[str]:
        return map(str, count())

    def __len__(self) -> int:
        return 2


class Fickle(UserDict[str, object]):
    """A mapping that gives another answer each time."""

    def __getitem__(self, name: str) -> object:
        return f"{name}{next(self.calls)}"

    calls = count()


@pytest.mark.parametrize(
    "given",
    rows(
        {"A": "x"},
        OrderedDict(A="x"),
        defaultdict(str, {"A": "x"}),
        UserDict({"A": "x"}),
        MappingProxyType({"A": "x"}),
        {Text("A"): "x"},
    ),
)
def test_any_mapping_becomes_a_dict_of_its_own(given: Mapping[str, object]) -> None:
    """With plain names, and independent of what the caller does with the mapping later."""
    read = checks.checked_dimensions(given)
    assert read == {"A": "x"}
    assert type(read) is dict
    assert {type(name) for name in read} == {str}
    assert read is not given


def test_no_dimensions_are_none_or_an_empty_mapping() -> None:
    """Both mean the same."""
    assert checks.checked_dimensions(None) == checks.checked_dimensions({}) == {}


def test_a_mapping_is_read_at_most_one_past_the_limit() -> None:
    """So an endless one comes to an end, and the policy still sees that there are too many."""
    assert len(checks.checked_dimensions(Endless())) == 31
    assert len(checks.checked_dimensions({str(name): 1 for name in range(100)})) == 31
    assert len(checks.checked_dimensions({str(name): 1 for name in range(30)})) == 30


def test_reading_does_not_change_a_defaultdict() -> None:
    """Looking for a name that is not there would add it."""
    given = defaultdict(str, {"A": "x"})
    checks.checked_dimensions(given)
    assert given == {"A": "x"}


@pytest.mark.parametrize(
    "given",
    rows(
        "",
        "alice@example.com",
        0,
        1,
        False,
        [],
        [("A", "x")],
        ((),),
        set(),
        iter({}),
        count(),
        Loud(),
        MagicMock(),
        MagicMock(spec=dict),
        dict,
    ),
)
def test_what_is_not_a_mapping_is_refused(given: object) -> None:
    """Also when it is empty, and without asking it anything."""
    error = refusal(checks.checked_dimensions, given)
    assert error.field == "dimensions"
    assert "mapping" in str(error)


@pytest.mark.parametrize("names", rows([1], [None], [("A",)], [b"A"], [Color], ["A", Text("A"), 1]))
def test_a_name_that_is_not_text_is_refused(names: list[object]) -> None:
    """CloudWatch takes text only, and str() of an object is rarely a name."""
    error = refusal(checks.checked_dimensions, dict.fromkeys(names, "alice@example.com"))
    assert error.field == "dimensions"


def test_two_spellings_of_one_name_are_refused() -> None:
    """Two keys may be different for Python and the same text on the wire."""

    class Other(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            return self is other

    error = refusal(checks.checked_dimensions, {"A": 1, Other("A"): 2})
    assert error.field == "dimensions"
    assert "twice" in str(error)


# ---- showing values ----


@pytest.mark.parametrize(
    ("value", "text"),
    rows(
        ("x", "'x'"),
        ("é\n", "'\\xe9\\n'"),
        ("\ud800", "'\\ud800'"),
        ("x" * 60, repr("x" * 60)),
        ("x" * 61, repr("x" * 60) + "... (61 characters)"),
        (7, "7"),
        (None, "None"),
        (True, "True"),
        (1.5, "1.5"),
        (10**60, "an int of 200 bits"),
        ({"UserId": "alice"}, "a dict"),
        (Text("alice"), "a Text"),
        (Loud(), "a Loud"),
        (Nameless(), "a Nameless"),
        (Nameless, "a Meta"),
        (type("T" * 1000, (), {})(), "a " + "T" * 60),
    ),
)
def test_a_value_is_shown_short_and_never_asked(value: object, text: str) -> None:
    """Only simple values are repeated; of everything else the type is named."""
    assert checks.shown(value) == text


def test_a_giant_text_is_not_copied_to_be_shown() -> None:
    """A message stays short whatever somebody passes by mistake."""
    assert len(checks.shown("x" * 10_000_000)) < 100


@pytest.mark.parametrize("personal", ["jane@example.com", "10.1.2.3", "upload-4111 1111 1111 1111"])
def test_text_that_looks_personal_is_neither_published_as_a_name_nor_repeated(personal: str) -> None:
    """A name goes to the wire as it is, and a message to the log: personal data belongs into neither."""
    calls = (
        lambda: checks.checked_name(personal),
        lambda: checks.checked_value(personal),
        lambda: checks.checked_unit(personal),
        lambda: checks.checked_namespace(personal),
        lambda: checks.checked_timestamp(personal, 0.0),
    )
    for call in calls:
        with pytest.raises(InvalidMetricError) as refusal:
            call()
        assert personal not in str(refusal.value)
