"""Which customer files the demo takes, and why it refuses the others."""

import random
from collections.abc import Callable

import pytest

from examples.retainwise import sample
from examples.retainwise.csv_checks import UnusableCSVError, check_head, read_customers
from examples.retainwise.traffic import BAD_KINDS, KINDS, Source, bad_file

SAMPLE = sample.sample_csv(50)


def refusal(data: bytes) -> str:
    """Why a file cannot be read."""
    with pytest.raises(UnusableCSVError) as refused:
        read_customers(data)
    return refused.value.error_type


def test_the_sample_is_the_same_every_time() -> None:
    """The seed decides every byte, and some customers left while others stayed."""
    assert sample.sample_csv(50) == SAMPLE
    assert {customer.churned for customer in read_customers(SAMPLE)} == {True, False}


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_a_bad_file_is_refused_where_the_plan_says(kind: str) -> None:
    """The API refuses what its head shows; the rest is refused by the worker; both name the declared type of error."""
    data = bad_file(kind, Source(SAMPLE), random.Random(1))
    assert refusal(data) == KINDS[kind].error_type
    if KINDS[kind].accepted:
        check_head(data)
    else:
        with pytest.raises(UnusableCSVError):
            check_head(data)


def test_blank_total_charges_are_zero() -> None:
    """Whoever joined this month has no total yet; that is no damage."""
    header, row = SAMPLE.decode().splitlines()[:2]
    cells = row.split(",")
    cells[header.split(",").index("TotalCharges")] = " "
    (customer,) = read_customers(f"{header}\n{','.join(cells)}\n".encode())
    assert customer.features["TotalCharges"] == 0.0


def test_the_label_is_optional() -> None:
    """A file without the Churn column is what customers upload."""
    source = Source(SAMPLE)
    unlabelled = read_customers(source.file(source.take(5), without=["Churn"]))
    assert {customer.churned for customer in unlabelled} == {None}


@pytest.mark.parametrize(
    "spell",
    [
        pytest.param(lambda data: b"\xef\xbb\xbf" + data, id="byte order mark"),
        pytest.param(lambda data: data.replace(b"\n", b"\r\n"), id="Windows line ends"),
        pytest.param(lambda data: data + b"\n\n", id="blank lines at the end"),
        pytest.param(
            lambda data: data.replace(b"SeniorCitizen", b"senior_citizen", 1), id="other spelling of a column"
        ),
    ],
)
def test_spellings_make_no_difference(spell: Callable[[bytes], bytes]) -> None:
    """What spreadsheets make of a file is still the same file."""
    assert read_customers(spell(SAMPLE)) == read_customers(SAMPLE)


@pytest.mark.parametrize(
    ("damage", "error_type"),
    [
        pytest.param(lambda data: data.replace(b",Male,", b',"Male,', 1), "RowLength", id="open quote"),
        pytest.param(lambda data: data + b"1,2,3\n", "RowLength", id="short row"),
        pytest.param(
            lambda data: data.replace(data.splitlines()[1].split(b",")[18], b"lots", 1), "BadNumber", id="word"
        ),
        pytest.param(lambda data: data.replace(b"Male", b"M\xe4le", 1), "NotText", id="not UTF-8"),
        pytest.param(lambda data: data.splitlines()[0] + b'\n"' + b"x" * 200_000, "Malformed", id="endless cell"),
    ],
)
def test_damage_is_named(damage: Callable[[bytes], bytes], error_type: str) -> None:
    """A damaged file is refused as a whole, under a short class of errors."""
    assert refusal(damage(SAMPLE)) == error_type
