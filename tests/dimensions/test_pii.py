"""What is recognised as personal data, how fast, and what is published in its place."""

import os
import subprocess
import sys
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retainwise_metrics.dimensions.defaults import DETECTORS
from retainwise_metrics.dimensions.pii import PUBLIC_KEY, Detector, Pseudonyms, Scanner, is_card_number
from retainwise_metrics.exceptions import ConfigurationError
from tests.dimensions.identifiers import SHAPES, corpus, ordinary

SCANNER = Scanner(DETECTORS)


class TestScanner:
    """What is found, what is left alone, and how long that takes."""

    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_shape_is_found_alone_and_inside_other_text(self, shape: str) -> None:
        """Of made-up identifiers of each shape, none is missed."""
        made = [text for name, _, text in corpus(len(SHAPES) * 100) if name == shape]
        assert [text for text in made if not SCANNER.finds(text)] == []

    @pytest.mark.parametrize(
        "text",
        [
            "jane.doe+churn@example.com",
            "JANE@EXAMPLE.COM",
            "jane%40example.com",
            "mailto:jane@example.com?subject=x",
            "10.1.2.3",
            "10.1.2.3:443",
            "host.10.1.2.3",
            "::1",
            "2001:db8::",
            "[2001:db8::1]:443",
            "2001:0db8:0000:0000:0000:ff00:0042:8329",
            "fe80::1%eth0",
            "fe80::1%65th0",
            "::ffff:192.0.2.1",
            "00:1A:2b:3c:4d:5e",
            "550e8400-e29b-41d4-a716-446655440000",
            "urn:uuid:550E8400-E29B-41D4-A716-446655440000",
            "{550e8400e29b41d4a716446655440000}",
            "+49 (0)30 1234567",
            "+14155552671",
            "tel:+1-415-555-2671",
            "phone=%2B4917012345678",
            "0049 170 1234567",
            "(0171) 1234567",
            "030/1234567",
            "06 12 34 56 78",
            "020 7946 0958",
            "(415) 555-2671",
            "1-800-555-2671",
            "415.555.2671",
            "(11) 91234-5678",
            "078-05-1120",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "5500005555555559",
            "card 4111 1111 1111 1111 exp 12",
            "4111 1111 1111 1111 12 25",
            "12 25 378282246310005",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "Bearer eyJhbGciOiJIUzI1NiJ9",
            "AKIAIOSFODNN7EXAMPLE",
            "ASIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "secret=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "/secrets/wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY/latest",
            "https://jane:hunter2@host/x",
        ],
    )
    def test_known_forms_are_found(self, text: str) -> None:
        """The forms people write, one by one."""
        assert SCANNER.finds(text)

    def test_ordinary_values_are_left_alone(self) -> None:
        """Names, versions, dates, numbers and ranges are not personal."""
        assert [value for value in ordinary() if SCANNER.finds(value)] == []

    @given(st.integers(0, 9_999_999) | st.dates() | st.times() | st.floats(0, 1e6).map(lambda value: round(value, 3)))
    def test_numbers_dates_and_times_are_left_alone(self, value: object) -> None:
        """What metrics are made of is not taken for phone or card numbers."""
        assert not SCANNER.finds(str(value))

    @given(st.ip_addresses().map(str) | st.uuids().map(str) | st.emails(domains=st.just("example.org")))
    def test_generated_addresses_are_found(self, text: str) -> None:
        """Whatever an address looks like, it is found."""
        assert SCANNER.finds(text) or text == "::"

    def test_a_detector_that_fails_has_found_something(self) -> None:
        """What could not be searched is not published."""

        def fails(match: str) -> bool:
            raise RuntimeError(match)

        assert Scanner([Detector("mine", "x", confirm=fails)]).finds("x")

    @pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
    def test_searching_takes_linear_time(self, detector: Detector) -> None:
        """Texts made to mislead a pattern cost no more than their length."""
        seeds = [
            "@",
            "a@",
            "a.",
            "@a.",
            "a@a.",
            ":",
            "a:",
            "1:",
            "://",
            "://:",
            "1.",
            "1",
            "1 ",
            "1-",
            "0",
            "01 ",
            "+1",
            "+1 ",
        ]
        seeds += [
            "(11",
            "(1)",
            "aB1/",
            "A",
            "aA1",
            "/",
            "eyJ",
            "AKIA",
            "0a-",
            "00000000-",
            "%40",
            "4111 ",
            "-",
            "\t",
            "2:",
        ]
        detector.compile()
        started = time.perf_counter()
        for seed in seeds:
            detector.matches(seed * (20_000 // len(seed)))
        # A quadratic pattern needs 20,000 times longer than a linear one: minutes.
        assert time.perf_counter() - started < 2

    @pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
    def test_what_spares_a_search_never_hides_a_find(self, detector: Detector) -> None:
        """`needs` and `at_least` are true of every text the pattern matches."""
        texts = [
            text for _, raw, _ in corpus(4400) for text in (raw, raw.replace("%40", "@")) if detector.matches(text)
        ]
        assert texts
        assert all(detector.needs in text and len(text) >= detector.at_least for text in texts)

    def test_a_pattern_that_is_no_expression_is_refused(self) -> None:
        """A mistake shows while configuring, with the name of the detector."""
        broken = Detector("mine", "(")
        assert repr(broken) == "Detector('mine')"
        with pytest.raises(ConfigurationError, match="detector 'mine'"):
            broken.compile()


class TestCardNumber:
    """The check digit."""

    @pytest.mark.parametrize("digits", ["4111111111111111", "378282246310005", "6011111111111117", "30569309025904"])
    def test_test_cards_of_the_networks_are_cards(self, digits: str) -> None:
        """The numbers card networks publish for tests have valid check digits."""
        assert is_card_number(digits)

    @pytest.mark.parametrize("digits", ["4111111111111112", "1700000000004", "411111111111", "41111111111111111111"])
    def test_other_numbers_are_not(self, digits: str) -> None:
        """A wrong check digit, a time stamp, too few and too many digits."""
        assert not is_card_number(digits)


class TestPseudonyms:
    """The labels."""

    def test_labels_name_the_key_and_one_of_256_buckets(self) -> None:
        """Without an id labels begin with `bucket`, with one they begin with it."""
        labels = {Pseudonyms("k2:secret").label(str(number)) for number in range(5000)}
        assert labels == {f"k2-{bucket:02x}" for bucket in range(256)}
        assert Pseudonyms().label("user_123").startswith("bucket-")
        assert Pseudonyms("secret").label("user_123").startswith("bucket-")

    def test_without_a_key_the_public_one_is_used(self) -> None:
        """What anybody can compute is documented, not hidden."""
        assert Pseudonyms().label("user_123") == Pseudonyms(PUBLIC_KEY).label("user_123")

    def test_labels_do_not_change_between_releases(self) -> None:
        """A release that moved people to other buckets would break every series."""
        labels = [
            Pseudonyms().label("user_123"),
            Pseudonyms("k2:secret").label("user_123"),
            Pseudonyms("x" * 99).label("é"),
        ]
        assert labels == ["bucket-5c", "k2-e0", "bucket-5d"]

    @pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
    def test_another_process_computes_the_same_labels(self, hash_seed: str) -> None:
        """Python's own hashes differ between processes; labels do not."""
        values = ["user_123", "jane@example.com", "10.1.2.3", "ünï"]
        program = (
            "import sys; from retainwise_metrics.dimensions.pii import Pseudonyms\n"
            "print(*map(Pseudonyms('k1:secret').label, sys.argv[1:]))"
        )
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONUTF8": "1"}
        answer = subprocess.run(
            [sys.executable, "-c", program, *values], env=environment, capture_output=True, check=True
        )
        assert answer.stdout.decode().split() == [Pseudonyms("k1:secret").label(value) for value in values]

    @pytest.mark.parametrize("shape", ["user_{}", "{}", "user{}@example.com", "10.0.{}.1"])
    def test_values_spread_evenly(self, shape: str) -> None:
        """Consecutive identifiers fill the buckets as chance would (chi-squared, 255 degrees of freedom)."""
        label = Pseudonyms("k1:secret").label
        counts = Counter(label(shape.format(number)) for number in range(25_600))
        assert len(counts) == 256
        assert 160 < sum((count - 100) ** 2 / 100 for count in counts.values()) < 370

    def test_a_new_key_moves_people_to_new_series(self) -> None:
        """After a rotation neither names nor buckets tell who was who."""
        old, new = Pseudonyms("k1:first").label, Pseudonyms("k2:second").label
        values = [f"user_{number}" for number in range(2560)]
        assert not {old(value) for value in values} & {new(value) for value in values}
        same = sum(old(value)[-2:] == new(value)[-2:] for value in values)
        assert same < 30  # 10 by chance

    @pytest.mark.parametrize("other", ["JANE@Example.com", " jane@example.com", "jane@example.com\n"])
    def test_an_e_mail_address_has_one_bucket_however_it_is_typed(self, other: str) -> None:
        """Case and spaces around it do not make another person."""
        assert Pseudonyms().label(other) == Pseudonyms().label("jane@example.com")

    def test_identifiers_that_differ_in_case_are_different(self) -> None:
        """Two users of a case-sensitive system stay two."""
        pairs = [(f"aB{number}", f"Ab{number}") for number in range(100)]
        assert sum(Pseudonyms().label(one) != Pseudonyms().label(other) for one, other in pairs) > 90

    @given(st.text())
    def test_any_text_has_a_label(self, text: str) -> None:
        """Unpaired surrogates too."""
        assert Pseudonyms("k1:secret").label(text) == Pseudonyms("k1:secret").label(text)
        assert Pseudonyms().label(text + "\udc80").startswith("bucket-")

    def test_long_keys_count_to_the_last_character(self) -> None:
        """A key longer than BLAKE2b takes is not cut off."""
        one, other = Pseudonyms("k1:" + "x" * 100 + "1"), Pseudonyms("k1:" + "x" * 100 + "2")
        assert [one.label(str(n)) for n in range(20)] != [other.label(str(n)) for n in range(20)]

    @pytest.mark.parametrize(
        "key", ["", " ", "k1:", "k1: ", ":hunter2", "K1:hunter2", "1k:hunter2", "bucket:hunter2", 7]
    )
    def test_malformed_keys_are_refused_without_being_shown(self, key: str) -> None:
        """An empty key would be the public one in secret's clothes, and half a secret must not become a label."""
        with pytest.raises(ConfigurationError, match="pii_key") as caught:
            Pseudonyms(key)
        assert caught.value.setting == "pii_key"
        assert "hunter2" not in str(caught.value)

    def test_printing_shows_the_key_id_only(self) -> None:
        """Secrets stay out of logs."""
        assert repr(Pseudonyms("k2:hunter2")) == "Pseudonyms(k2-00 to k2-ff)"
