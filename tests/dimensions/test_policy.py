"""What a policy publishes, what it refuses, and that no raw personal value gets past it."""

import re
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retainwise_metrics.dimensions import (
    HASHED,
    UNCHANGED,
    Detector,
    DimensionPolicy,
    Resolved,
    Rule,
)
from retainwise_metrics.dimensions.defaults import DETECTORS, RULES
from retainwise_metrics.exceptions import ConfigurationError, InvalidMetricError
from tests.dimensions.identifiers import corpus, ordinary

T = TypeVar("T")

POLICY = DimensionPolicy()
DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "dimensions.md").read_text("utf-8")


PRIVATE_NAMES = [
    "Email",
    "customer_email",
    "IpAddress",
    "ClientIp",
    "RemoteAddr",
    "UploadId",
    "SessionId",
    "PhoneNumber",
    "FirstName",
    "CustomerId",
    "AccountId",
    "TenantId",
    "DeviceId",
    "RequestId",
    "TraceId",
    "AccessToken",
    "x-api-key",
]


class Plan(str, Enum):
    """A str that is an Enum too."""

    GOLD = "gold"


class Level(Enum):
    """An Enum of numbers."""

    HIGH = 3


class Wire:
    """Something with a text of its own."""

    def __init__(self, text: object) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text  # type: ignore[return-value]


class Loud:
    """Something whose methods raise its secret."""

    def _raise(self, *_: object) -> None:
        message = "hunter2"
        raise RuntimeError(message)

    __str__ = __eq__ = __len__ = __float__ = __bool__ = __iter__ = _raise  # type: ignore[assignment]
    __hash__ = object.__hash__


class Faceless(Loud):
    """Something that raises as soon as it is asked what it is."""

    __class__ = property(Loud._raise)  # type: ignore[assignment]


class LoudText(str):
    """A str whose methods raise its secret."""

    __slots__ = ()
    _raise = Loud._raise
    __str__ = __len__ = __contains__ = strip = isascii = _raise  # type: ignore[assignment]


class Twin(str):
    """A str that equals no other, not even one with the same text."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class LoudMapping(Mapping[str, object]):
    """A mapping that gives some items and then raises its secret."""

    def __getitem__(self, key: str) -> object:
        raise RuntimeError("hunter2")

    def __iter__(self) -> Iterator[str]:
        yield "Service"
        raise RuntimeError("hunter2")

    def __len__(self) -> int:
        raise RuntimeError("hunter2")


class Endless(dict[str, object]):
    """A mapping without an end."""

    def items(self) -> Iterator[tuple[str, object]]:  # type: ignore[override]
        """Item after item."""
        number = 0
        while True:
            yield f"Name{number}", number
            number += 1


class TestValues:
    """What becomes of values of any type."""

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("api", "api"),
            (" api ", " api "),
            (LoudText("api"), "api"),
            (Plan.GOLD, "gold"),
            (Level.HIGH, "3"),
            (True, "true"),
            (False, "false"),
            (4, "4"),
            (4.0, "4"),
            (-0.0, "0"),
            (0.1, "0.1"),
            (1e22, "1e+22"),
            (float("inf"), "inf"),
            (Decimal("4.50"), "4.5"),
            (Fraction(1, 3), "1/3"),
            (np.float32(0.1), "0.1"),
            (np.float64(4), "4"),
            (np.int64(7), "7"),
            (np.bool_(True), "true"),
            (Wire("text"), "text"),
            (Wire(LoudText("text")), "text"),
            (Path("a/b"), "a/b"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_values_become_plain_text(self, value: object, text: str) -> None:
        """Whatever has a text is taken, and equal numbers have equal texts."""
        resolved = POLICY.resolve("Service", value)
        assert resolved == Resolved(text, private=False)
        assert type(resolved.value) is str

    def test_a_uuid_object_is_personal_like_its_text(self) -> None:
        """An object is searched as the text it becomes."""
        value = uuid.UUID(int=7)
        assert POLICY.resolve("Service", value) == POLICY.resolve("Service", str(value))
        assert POLICY.resolve("Service", value).private

    @pytest.mark.parametrize(
        "value",
        [
            None,
            "",
            " \t",
            float("nan"),
            Decimal("NaN"),
            Decimal("sNaN"),
            np.float32("nan"),
            np.array([1, 2]),
            object(),
            Wire(None),
            Wire(7),
            Wire(""),
            "caf\xe9",
            "line\nbreak",
            "nul\0",
            "\x7f",
            "\udc80",
            10**5000,
            "x" * 1025,
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_values_cloudwatch_would_refuse_are_refused(self, value: object) -> None:
        """Blank, too long, not printable ASCII, or without any text: the message names the dimension."""
        with pytest.raises(InvalidMetricError, match="dimension 'Service'") as caught:
            POLICY.resolve("Service", value)
        assert caught.value.field == "dimensions"
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))

    def test_an_object_that_always_raises_is_refused_wherever_it_stands(self) -> None:
        """Not even `isinstance` may be relied on, and what is raised is not passed on."""
        for loud in (Loud(), Faceless()):
            for attempt in (
                lambda loud=loud: POLICY.resolve("Service", loud),
                lambda loud=loud: POLICY.resolve(loud, "api"),
                lambda loud=loud: POLICY.resolve_all(loud),
                lambda loud=loud: POLICY.resolve_all({"Service": loud}),
            ):
                with pytest.raises(InvalidMetricError) as caught:
                    attempt()
                assert "hunter2" not in "".join(traceback.format_exception(caught.value))

    def test_the_longest_value_is_taken(self) -> None:
        """The limit itself is allowed."""
        assert POLICY.resolve("Service", "x" * 1024).value == "x" * 1024

    def test_a_private_value_may_be_anything_but_blank(self) -> None:
        """A bucket is always printable, whatever it stands for."""
        assert POLICY.resolve("UserId", "J\xf6rg\n").private
        with pytest.raises(InvalidMetricError, match="blank"):
            POLICY.resolve("UserId", " ")

    def test_what_stops_the_program_is_not_stopped(self) -> None:
        """Ctrl-C during a `__str__` is not an invalid metric."""

        class Interrupted:
            """Somebody presses Ctrl-C while this is turned into text."""

            def __str__(self) -> str:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            POLICY.resolve("Service", Interrupted())


class TestNames:
    """Which names are taken."""

    @pytest.mark.parametrize(
        "name", ["", " ", "x" * 256, ":name", "caf\xe9", "a\nb", "\udc80", None, 7, b"name", ("a",)]
    )
    def test_names_cloudwatch_would_refuse_are_refused(self, name: str) -> None:
        """Empty, blank, too long, not printable ASCII, a leading colon, or no text."""
        with pytest.raises(InvalidMetricError) as caught:
            POLICY.resolve(name, "api")
        assert caught.value.field == "dimensions"
        assert not POLICY.is_private(name)

    @pytest.mark.parametrize("name", ["jane@example.com", "10.1.2.3", "+14155552671", "jos\xe9@example.com"])
    def test_a_name_that_looks_personal_is_refused_and_not_shown(self, name: str) -> None:
        """Somebody swapped name and value: neither is published, nor written to a log."""
        with pytest.raises(InvalidMetricError, match="looks like personal data") as caught:
            POLICY.resolve(name, "api")
        assert name not in "".join(traceback.format_exception(caught.value))

    def test_a_subclass_of_str_becomes_plain(self) -> None:
        """Names on the wire are plain, whatever the caller's are."""
        pairs, _ = POLICY.resolve_all({LoudText("Service"): "api", Plan.GOLD: 1})
        assert pairs == (("Service", "api"), ("gold", "1"))
        assert {type(name) for name, _ in pairs} == {str}


class TestResolveAll:
    """The dimensions of one record."""

    def test_dimensions_are_sorted_by_name(self) -> None:
        """The order they are given in does not make another series."""
        assert POLICY.resolve_all({"b": 1, "a": 2}) == ((("a", "2"), ("b", "1")), False)
        assert POLICY.resolve_all({}) == ((), False)

    def test_one_personal_value_makes_them_personal(self) -> None:
        """Callers learn that they must not keep what they gave."""
        pairs, private = POLICY.resolve_all({"UserId": 7, "Service": "api"})
        assert pairs == (("Service", "api"), ("UserId", POLICY.resolve("UserId", "7").value))
        assert private

    def test_thirty_dimensions_are_taken_and_no_more(self) -> None:
        """CloudWatch takes 30; the message says so."""
        assert len(POLICY.resolve_all({f"d{number}": 1 for number in range(30)})[0]) == 30
        with pytest.raises(InvalidMetricError, match="more than 30"):
            POLICY.resolve_all({f"d{number}": 1 for number in range(31)})
        with pytest.raises(InvalidMetricError, match="more than 30"):
            POLICY.resolve_all(Endless())

    @pytest.mark.parametrize("given", [None, 7, "Service", [("a", 1)], LoudMapping(), {1, 2}])
    def test_what_is_no_mapping_is_refused(self, given: Mapping[str, object]) -> None:
        """So is a mapping that cannot be read."""
        with pytest.raises(InvalidMetricError, match="mapping") as caught:
            POLICY.resolve_all(given)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))

    def test_a_name_given_twice_is_refused(self) -> None:
        """Two keys can differ and still have one text."""
        with pytest.raises(InvalidMetricError, match="'Service' is given twice"):
            POLICY.resolve_all({"Service": 1, Twin("Service"): 2})


class TestRules:
    """Which rule covers which name, and what it does."""

    @pytest.mark.parametrize(
        "name", ["UserId", "user_id", "user-id", "userID", "USERID", "enduser.user_id", "CurrentUserId"]
    )
    def test_a_name_is_covered_however_it_is_spelled(self, name: str) -> None:
        """Case, punctuation and what comes before do not matter."""
        assert POLICY.is_private(name)
        assert POLICY.resolve(name, "user_123") == POLICY.resolve("UserId", "user_123")

    @pytest.mark.parametrize("name", PRIVATE_NAMES)
    def test_names_of_personal_things_are_private(self, name: str) -> None:
        """Whatever the value looks like."""
        assert POLICY.is_private(name)
        value, private = POLICY.resolve(name, "x")
        assert private
        assert re.fullmatch("bucket-[0-9a-f]{2}", value)

    @pytest.mark.parametrize(
        "name",
        ["Service", "Zip", "Membership", "EmailDomain", "ModelVersion", "ErrorType", "Endpoint", "Plan", "Status"],
    )
    def test_other_names_are_not(self, name: str) -> None:
        """Names that only resemble personal ones keep their values."""
        assert not POLICY.is_private(name)
        assert POLICY.resolve(name, "gold") == Resolved("gold", private=False)

    @pytest.mark.parametrize(
        ("name", "value", "wire"),
        [
            ("FileSizeMB", 4.2, Resolved("1-5MB", private=False)),
            ("file_size", np.int64(50), Resolved("> 50MB", private=False)),
            ("CSVRowCount", 1000, Resolved("1K-10K", private=False)),
            ("CSVRowCount", "jane@example.com", Resolved("unknown", private=True)),
            ("http.status_code", HTTPStatus.NOT_FOUND, Resolved("4xx", private=False)),
            ("Status", 200, Resolved("2xx", private=False)),
            ("Status", "active", Resolved("active", private=False)),
            ("Endpoint", "/upload", Resolved("/upload", private=False)),
            ("Endpoint", "/users/42", Resolved("/users/{id}", private=True)),
            ("CallbackUrl", "https://h/reset/k3y?e=jane@example.com", Resolved("/reset/{id}", private=True)),
        ],
    )
    def test_the_defaults_bucket_numbers_and_paths(self, name: str, value: object, wire: Resolved) -> None:
        """The default rules, by example."""
        assert POLICY.resolve(name, value) == wire

    def test_a_user_s_rule_wins_over_the_defaults(self) -> None:
        """Whether it is narrower or wider than the default."""
        policy = POLICY.extend(
            Rule("TenantId", "customer_email", becomes=UNCHANGED),
            Rule("*Path", becomes=lambda path: "a path"),
            Rule("Plan", becomes=HASHED),
        )
        assert policy.resolve("tenant_id", "10.1.2.3") == Resolved("10.1.2.3", private=False)
        assert policy.resolve("CustomerEmail", "a@b.cd").value == "a@b.cd"
        assert policy.resolve("Path", "/x").value == policy.resolve("FilePath", "/x").value == "a path"
        assert policy.is_private("Plan")

    def test_an_exception_for_one_name_is_none_for_its_relatives(self) -> None:
        """`Email` in clear does not put `customer_email` in clear."""
        policy = POLICY.extend(Rule("Email", becomes=UNCHANGED))
        assert policy.resolve("Email", "jane@example.com").value == "jane@example.com"
        assert policy.is_private("customer_email")

    def test_later_rules_win_over_earlier_ones(self) -> None:
        """In one call and over several."""
        once = POLICY.extend(Rule("Plan", becomes=HASHED), Rule("Plan", becomes=str.upper))
        assert once.resolve("Plan", "gold").value == "GOLD"
        assert once.extend(Rule("*an", becomes=str.title)).resolve("Plan", "gold").value == "Gold"

    def test_what_a_rule_returns_is_searched_too(self) -> None:
        """A careless rule does not publish personal data."""
        policy = POLICY.extend(Rule("Who", becomes=lambda text: f"{text}@example.com"))
        assert policy.resolve("Who", "jane") == Resolved(policy.resolve("UserId", "jane").value, private=True)

    def test_a_value_a_rule_changed_is_not_to_be_kept(self) -> None:
        """What it was before may be anything."""
        policy = POLICY.extend(Rule("Plan", becomes=lambda plan: plan if plan in {"free", "gold"} else "other"))
        assert policy.resolve("Plan", "gold") == Resolved("gold", private=False)
        assert policy.resolve("Plan", "Jane Doe") == Resolved("other", private=True)

    @pytest.mark.parametrize(
        "function",
        [lambda text: 1 / 0, lambda text: None, lambda text: b"x", lambda text: Resolved(None, private=False)],
    )
    def test_a_rule_that_fails_publishes_nothing(self, function: object) -> None:
        """The message says which rule to correct."""
        with pytest.raises(InvalidMetricError, match="rule for dimension 'Plan' failed"):
            POLICY.extend(Rule("Plan", becomes=function)).resolve("Plan", "gold")  # type: ignore[arg-type]

    def test_a_user_s_detector_is_searched_with(self) -> None:
        """In values and in names."""
        policy = POLICY.extend(detectors=[Detector("employee", r"EMP-[0-9]{4}")])
        assert policy.resolve("Service", "for EMP-1234").private
        assert policy.resolve("Service", "jane@example.com").private
        with pytest.raises(InvalidMetricError, match="personal"):
            policy.resolve("EMP-1234", "x")

    def test_a_broken_detector_is_refused_at_once(self) -> None:
        """Not when the first value comes along."""
        with pytest.raises(ConfigurationError, match="'mine'"):
            POLICY.extend(detectors=[Detector("mine", "[")])

    def test_a_policy_without_rules_and_detectors_changes_nothing(self) -> None:
        """Only the API's limits remain."""
        policy = DimensionPolicy(rules=(), detectors=())
        assert policy.resolve("UserId", "jane@example.com") == Resolved("jane@example.com", private=False)


class TestPolicy:
    """The policy as a whole."""

    def test_the_key_survives_extension_and_rules_survive_a_key(self) -> None:
        """Each change keeps the rest."""
        one = DimensionPolicy(pii_key="k1:a").extend(Rule("Plan", becomes=HASHED))
        other = POLICY.extend(Rule("Plan", becomes=HASHED)).with_key("k1:a")
        assert one.resolve("Plan", "x") == other.resolve("Plan", "x")
        assert one.resolve("Plan", "x").value.startswith("k1-")
        assert one.with_key("k2:b").resolve("Plan", "x").value.startswith("k2-")

    def test_a_policy_does_not_change(self) -> None:
        """Extending makes another one."""
        POLICY.extend(Rule("Service", becomes=HASHED))
        assert not POLICY.is_private("Service")
        with pytest.raises(AttributeError):
            POLICY.anything = 1  # type: ignore[attr-defined]

    def test_printing_a_policy_does_not_show_its_key(self) -> None:
        """Secrets stay out of logs."""
        assert "hunter2" not in repr(DimensionPolicy(pii_key="k1:hunter2"))

    def test_no_identifier_is_published(self) -> None:
        """Ten thousand made-up identifiers in every shape and context, under a harmless name: none gets through."""
        leaked = [
            (text, wire) for _, raw, text in corpus(10_000) if raw in (wire := POLICY.resolve("Label", text)).value
        ]
        assert leaked == []

    def test_no_identifier_is_kept(self) -> None:
        """Each of them is reported as personal, so that no cache holds it; under a path's name too."""
        made = list(corpus(10_000, seed=2))
        assert [text for _, _, text in made if not POLICY.resolve("Label", text).private] == []
        paths = [(raw, POLICY.resolve("Path", f"/users/{raw}/x")) for _, raw, _ in made]
        assert [raw for raw, (wire, private) in paths if raw in wire or not private] == []

    def test_ordinary_values_are_published_as_they_are(self) -> None:
        """Hygiene that hides harmless values is switched off."""
        assert [value for value in ordinary() if POLICY.resolve("Label", value) != Resolved(value, private=False)] == []


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.fractions(),
    st.complex_numbers(),
    st.text(),
    st.text(alphabet="@.:+-/%?#{}<>a1Fe0 \n\udc80", max_size=60),
    st.binary(),
    st.uuids(),
    st.datetimes(),
    st.ip_addresses(),
    st.lists(st.text(), max_size=3),
    st.dictionaries(st.text(), st.text(), max_size=3),
    st.sampled_from([Loud, LoudText("x"), Plan.GOLD, Level.HIGH, np.float32(1), np.array([1, 2]), object(), Ellipsis]),
    st.text().map(Wire),
    st.builds(Loud),
    st.just("x").map(lambda text: text * 1025),
)
NAMES = st.one_of(
    ANYTHING, st.sampled_from(["Service", "UserId", "Path", "StatusCode", "Status", "FileSizeMB", "RowCount"])
)


def _or_refused(answer: Callable[[], T]) -> T | None:
    """The answer, or None when it is a refusal; anything else raised fails the test."""
    try:
        return answer()
    except InvalidMetricError:
        return None


@given(name=NAMES, value=ANYTHING)
@settings(max_examples=400, deadline=None)
def test_anything_resolves_or_is_refused(name: str, value: object) -> None:
    """Whatever is given, the answer is a value CloudWatch takes or an `InvalidMetricError`."""
    resolved = _or_refused(lambda: POLICY.resolve(name, value))
    if resolved:
        assert type(resolved.value) is str
        assert re.fullmatch("[ -~]{1,1024}", resolved.value)
        assert resolved.value.strip()


@given(
    st.dictionaries(st.text() | st.integers() | st.sampled_from(["Service", "UserId"]), ANYTHING, max_size=4) | ANYTHING
)
@settings(max_examples=200, deadline=None)
def test_any_dimensions_resolve_or_are_refused(dimensions: Mapping[str, object]) -> None:
    """Whatever is given, the answer is sorted pairs of names and values or an `InvalidMetricError`."""
    resolved = _or_refused(lambda: POLICY.resolve_all(dimensions))
    if resolved:
        assert [name for name, _ in resolved[0]] == sorted(dimensions)
        assert resolved[1] in (True, False)


def _documented(heading: str) -> list[tuple[str, ...]]:
    """The rows of the table under a heading of the documentation."""
    section = DOCUMENTATION.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return rows[2:]


def test_the_documentation_lists_the_default_rules() -> None:
    """One row per rule, in the order of the table in the code."""
    expected = [(", ".join(f"`{name}`" for name in rule.names), str(rule.becomes)) for rule in RULES]
    assert [row[:2] for row in _documented("Default rules")] == expected


def test_the_documentation_lists_the_default_detectors() -> None:
    """One row per detector, and the example is found by it."""
    rows = _documented("What is recognised as personal")
    assert [row[0] for row in rows] == [detector.name for detector in DETECTORS]
    assert [
        row[0] for row, detector in zip(rows, DETECTORS, strict=True) if not detector.matches(row[1].strip("`"))
    ] == []


def test_the_examples_of_the_documentation_run() -> None:
    """Each block of Python is a program whose assertions hold."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENTATION, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/dimensions.md", "exec"), {})
