"""What rules make of numbers, status codes and paths, and which names they cover."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retainwise_metrics.dimensions.bucketing import (
    HASHED,
    MAX_SEGMENT_LENGTH,
    MAX_SEGMENTS,
    NumberBuckets,
    PathTemplate,
    Resolved,
    Rule,
    StatusClass,
)
from retainwise_metrics.dimensions.text import spelling
from retainwise_metrics.exceptions import ConfigurationError

SIZES = NumberBuckets(edges=(1, 5, 10, 50), unit="MB")
ROWS = NumberBuckets(edges=(100, 1_000, 10_000, 100_000))
PATHS = PathTemplate()

FINITE = st.floats(allow_nan=False, allow_infinity=False)


class TestNumberBuckets:
    """Numbers become ranges."""

    @pytest.mark.parametrize(
        ("number", "label"),
        [
            ("-3", "< 1MB"),
            ("0", "< 1MB"),
            ("0.999", "< 1MB"),
            ("1", "1-5MB"),
            ("4.999", "1-5MB"),
            ("5", "5-10MB"),
            ("9.999", "5-10MB"),
            ("10", "10-50MB"),
            ("49.999", "10-50MB"),
            ("50", "> 50MB"),
            ("inf", "> 50MB"),
            ("-inf", "< 1MB"),
            ("4.2MB", "1-5MB"),
            ("4.2 MB", "1-5MB"),
        ],
    )
    def test_a_size_on_an_edge_belongs_to_the_range_above(self, number: str, label: str) -> None:
        """The lower edge of a range is in it, the upper one is not."""
        assert SIZES(number) == Resolved(label, private=False)

    @pytest.mark.parametrize(
        ("number", "label"),
        [
            ("99", "< 100"),
            ("100", "100-1000"),
            ("999", "100-1000"),
            ("1000", "1K-10K"),
            ("9999", "1K-10K"),
            ("10000", "10K-100K"),
            ("99999", "10K-100K"),
            ("100000", "> 100K"),
        ],
    )
    def test_row_counts_are_written_in_thousands_from_a_thousand_up(self, number: str, label: str) -> None:
        """Without a unit a label takes the magnitude of its smallest number."""
        assert ROWS(number).value == label

    @pytest.mark.parametrize(
        ("edges", "unit", "labels"),
        [
            ((1,), "", ("< 1", "> 1")),
            ((0.5, 1.5), "s", ("< 0.5s", "0.5-1.5s", "> 1.5s")),
            ((1500, 2500), "", ("< 1.5K", "1.5K-2.5K", "> 2.5K")),
            ((1500, 2500), "ms", ("< 1500ms", "1500-2500ms", "> 2500ms")),
            ((100_000, 1e6, 1e7), "", ("< 100K", "100K-1000K", "1M-10M", "> 10M")),
            ((0, 1_234_567, 1_234_568), "", ("< 0", "0-1234567", "1.234567M-1.234568M", "> 1.234568M")),
        ],
    )
    def test_labels_follow_from_the_edges(self, edges: tuple[float, ...], unit: str, labels: tuple[str, ...]) -> None:
        """Any ascending edges make one label more than there are edges."""
        assert NumberBuckets(edges=edges, unit=unit).labels == labels

    @pytest.mark.parametrize("text", ["jane@example.com", "nan", "many", "1,000", "0x10", "4.2GB"])
    def test_what_is_no_number_becomes_unknown_and_may_be_personal(self, text: str) -> None:
        """A value its name does not promise is not published, and must not be kept."""
        assert SIZES(text) == Resolved("unknown", private=True)

    @pytest.mark.parametrize("buckets", [SIZES, ROWS])
    def test_a_label_stays_as_it_is(self, buckets: NumberBuckets) -> None:
        """Bucketing twice is bucketing once."""
        assert [buckets(label) for label in buckets.labels] == [
            Resolved(label, private=False) for label in buckets.labels
        ]

    @given(edges=st.sets(FINITE, min_size=1, max_size=20).map(sorted), number=FINITE)
    def test_every_number_is_in_the_range_its_label_says(self, edges: list[float], number: float) -> None:
        """As many labels lie below a number's label as edges are at or below the number."""
        buckets = NumberBuckets(edges=edges)
        assert len(set(buckets.labels)) == len(edges) + 1
        assert buckets.labels.index(buckets(repr(number)).value) == sum(edge <= number for edge in edges)

    @pytest.mark.parametrize(
        "edges", [(), (5, 1), (1, 1), (1, float("nan")), (float("inf"),), ("1", "5"), (True, None)]
    )
    def test_edges_that_are_not_ascending_finite_numbers_are_refused(self, edges: tuple[float, ...]) -> None:
        """A wrong configuration shows when it is made, not when something is recorded."""
        with pytest.raises(ConfigurationError, match="edges must be ascending") as caught:
            NumberBuckets(edges=edges)
        assert caught.value.setting == "edges"


class TestStatusClass:
    """Status codes become classes."""

    @pytest.mark.parametrize(("code", "label"), [("100", "1xx"), ("204", "2xx"), ("404", "4xx"), ("599", "5xx")])
    def test_codes_become_classes(self, code: str, label: str) -> None:
        """Every code from 100 to 599 has a class."""
        assert StatusClass()(code) == Resolved(label, private=False)

    def test_a_class_stays_as_it_is(self) -> None:
        """Classifying twice is classifying once."""
        assert StatusClass()("4xx") == Resolved("4xx", private=False)

    @pytest.mark.parametrize("text", ["99", "600", "2000", "20x", "active", "²00", "2 0"])
    def test_the_rest_is_unknown_or_stays(self, text: str) -> None:
        """`StatusCode` promises a code, `Status` does not."""
        assert StatusClass()(text) == Resolved("unknown", private=True)
        assert StatusClass(otherwise=None)(text) == Resolved(text, private=False)


class TestPathTemplate:
    """Paths become templates."""

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/upload",
            "upload",
            "/upload/",
            "/v1/users",
            "/v2.1/reports/churn",
            "/v1beta1/items:batchGet",
            "/healthz",
            "/index.html",
            "/s3/oauth2/callback",
            "/api/customer-churn_report/latest",
            "/retainwise.PredictionService/GetPredictions",
            "/rpc/getCustomerPredictionsByRegion",
            "/users/{id}/files/{file_id}",
            "/users/{user_id2}",
            "/files/{path:path}",
            "/users/<int:user_id>",
            "/users/:userId",
            "/reports/report-{day}.csv",
            "GET /users/{id}",
            "*",
        ],
    )
    def test_routes_and_templates_stay_as_they_are(self, path: str) -> None:
        """Words, versions and placeholders identify nobody."""
        assert PATHS(path) == Resolved(path, private=False)

    @pytest.mark.parametrize(
        ("url", "template"),
        [
            ("/users/42", "/users/{id}"),
            ("/users/42/files/7", "/users/{id}/files/{id}"),
            ("https://api.retainwise.example:8443/users/42?page=2#top", "/users/{id}"),
            ("https://jane:secret@host/upload", "/upload"),
            ("https://api.retainwise.example", "/"),
            ("?page=2", "/"),
            ("/upload?email=jane@example.com", "/upload"),
            ("/upload#jane", "/upload"),
            ("/go?to=https://other.example/x", "/go"),
            ("/upload;jsessionid=1A2B", "/upload"),
            ("/users/jane@example.com/x", "/users/{id}/x"),
            ("/users/jane%40example.com", "/users/{id}"),
            ("/users/user_123", "/users/{id}"),
            ("/users/u42", "/users/{id}"),
            ("/users/550e8400-e29b-41d4-a716-446655440000", "/users/{id}"),
            ("/commits/9fceb02d0ae598e95dc970b74767f19372d61af8", "/commits/{id}"),
            ("/x/V1StGXR8_Z5jdHi6B-myT", "/x/{id}"),
            ("/x/qWeRtYuIoPaSdFgHjKlZx", "/x/{id}"),
            ("/x/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/x/{id}"),
            ("/x/" + "a" * (MAX_SEGMENT_LENGTH + 1), "/x/{id}"),
            ("/hosts/10.1.2.3/x", "/hosts/{id}/x"),
            ("/x/{jane@example.com}", "/x/{id}"),
            ("/x/{42}", "/x/{id}"),
            ("/café/menu", "/{id}/menu"),
            ("/v1/users/{id}/posts/42", "/v1/users/{id}/posts/{id}"),
            ("/a\\b\n/c", "/{id}/c"),
        ],
    )
    def test_what_may_identify_somebody_becomes_a_placeholder(self, url: str, template: str) -> None:
        """Whatever is not a word of a route is not published, and must not be kept."""
        assert PATHS(url) == Resolved(template, private=True)

    def test_deep_paths_are_cut(self) -> None:
        """A scan of made-up deep paths cannot make endless templates."""
        deep = "/x" * (MAX_SEGMENTS + 5)
        assert PATHS("/x" * MAX_SEGMENTS).value == "/x" * MAX_SEGMENTS
        assert PATHS(deep) == Resolved("/x" * MAX_SEGMENTS + "/*", private=True)

    def test_a_word_can_be_kept(self) -> None:
        """A service names the words of its routes that contain digits."""
        assert PathTemplate(keep=["us-east-1"])("/regions/us-east-1/7").value == "/regions/us-east-1/{id}"

    @given(st.text() | st.text(alphabet="/:;?#{}<>@% .aV12", max_size=60))
    def test_a_template_is_its_own_template(self, text: str) -> None:
        """Templating twice is templating once, and what changed is private."""
        template, private = PATHS(text)
        assert PATHS(template).value == template
        assert private == (template != text)

    @given(st.lists(st.from_regex(re.compile(r"[A-Za-z_.-]*[0-9][A-Za-z0-9_.-]*"), fullmatch=True), max_size=20))
    def test_no_segment_with_a_digit_is_published(self, segments: list[str]) -> None:
        """Digits are what identifiers have and words do not, versions and known words apart."""
        words = {*PATHS.keep, *(segment for segment in segments if re.fullmatch(r"[vV]\d.*", segment))}
        kept = PATHS("/" + "/".join(segments)).value.split("/")
        assert not [segment for segment in kept if re.search("[0-9]", segment) and segment not in words]


class TestRule:
    """Names and what their values become."""

    @pytest.mark.parametrize("name", ["UserId", "user_id", "user-id", "userID", "USERID", "user.id", "User Id"])
    def test_spellings_of_a_name_are_one_name(self, name: str) -> None:
        """Case and punctuation do not matter."""
        assert spelling(name) == "userid"

    @pytest.mark.parametrize("names", [(), ("",), ("*",), ("_-",), (7,)])
    def test_a_rule_without_a_name_is_refused(self, names: tuple[str, ...]) -> None:
        """A rule for everything, or for nothing, is a mistake."""
        with pytest.raises(ConfigurationError, match="a letter or a digit"):
            Rule(*names, becomes=HASHED)

    def test_a_rule_without_a_function_is_refused(self) -> None:
        """A rule says what values become."""
        with pytest.raises(ConfigurationError, match="'Plan' must become"):
            Rule("Plan", becomes="gold")  # type: ignore[arg-type]

    def test_rules_print_what_they_do(self) -> None:
        """A printed rule can be read, and pasted."""
        rule = Rule("Wait", becomes=NumberBuckets(edges=(1, 2), unit="s"))
        assert repr(rule) == "Rule('Wait', becomes=NumberBuckets(edges=(1, 2), unit='s'))"
        assert [repr(each) for each in (StatusClass(), PathTemplate(keep=["q3"]))] == [
            "StatusClass(otherwise='unknown')",
            "PathTemplate(keep=['q3'])",
        ]
