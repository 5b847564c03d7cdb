"""
What a usable customer file is.

The API looks at the head of a file, which is cheap, and refuses what can never work. The worker reads all of it, and is
strict: a file with one damaged row is refused as a whole, because half a prediction list misleads more than none.
"""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ID_COLUMN = "customerID"
LABEL_COLUMN = "Churn"
NUMBERS = ("tenure", "MonthlyCharges", "TotalCharges")
CATEGORIES = (
    "gender",
    "SeniorCitizen",
    "Partner",
    "Dependents",
    "PhoneService",
    "MultipleLines",
    "InternetService",
    "OnlineSecurity",
    "OnlineBackup",
    "DeviceProtection",
    "TechSupport",
    "StreamingTV",
    "StreamingMovies",
    "Contract",
    "PaperlessBilling",
    "PaymentMethod",
)
REQUIRED_COLUMNS = (ID_COLUMN, *CATEGORIES, *NUMBERS)

MAY_BE_BLANK = frozenset({"TotalCharges"})
"""A customer in the first month has no total yet: the cell is blank, and means 0."""


class UnusableCSVError(ValueError):
    """
    A file that no retry makes usable.

    Attributes:
        error_type: A short class of errors, good as a dimension value.
    """

    def __init__(self, *, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


class Customer(NamedTuple):
    """
    One row, ready for the model.

    Attributes:
        customer_id: As in the file.
        features: Numbers as floats, categories as text.
        churned: Whether the customer left; None when the file does not say.
    """

    customer_id: str
    features: dict[str, str | float]
    churned: bool | None


def check_head(data: bytes) -> None:
    """
    Refuse a file that can never be scored, at the price of a glance.

    Args:
        data: The whole file.

    Raises:
        UnusableCSVError: It is empty, not text, lacks columns, or has no customers.
    """
    rows = _rows(data)
    _columns(next(rows, []))
    if next(rows, None) is None:
        raise UnusableCSVError(error_type="NoRows", message="The file has a header and no customers.")


def read_customers(data: bytes) -> list[Customer]:
    """
    Read every customer of a file.

    Args:
        data: The whole file: UTF-8, comma-separated, with a header. The order and case of the columns do not matter.

    Returns:
        At least one customer, in the order of the file.

    Raises:
        UnusableCSVError: As `check_head`, or a row is damaged.
    """
    check_head(data)
    rows = _rows(data)
    header = next(rows)
    columns = _columns(header)
    return [_customer(row, columns, len(header), number) for number, row in enumerate(rows, start=2)]


def _rows(data: bytes) -> Iterator[list[str]]:
    """The rows that are not blank, the header first."""
    if not data.strip():
        raise UnusableCSVError(error_type="EmptyFile", message="The file is empty.")
    if b"\0" in data:
        raise UnusableCSVError(error_type="NotText", message="The file is binary, not a CSV.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnusableCSVError(error_type="NotText", message="The file is not UTF-8 text.") from None
    return _parsed(text)


def _parsed(text: str) -> Iterator[list[str]]:
    try:
        yield from filter(None, csv.reader(io.StringIO(text, newline="")))
    except csv.Error:
        # An unclosed quote makes one cell of the rest of the file, which is more than a cell may hold.
        raise UnusableCSVError(error_type="Malformed", message="The file is not well-formed CSV.") from None


def _columns(header: Sequence[str]) -> dict[str, int]:
    """Where each known column is."""
    places = {_plain(name): place for place, name in enumerate(header)}
    missing = [name for name in REQUIRED_COLUMNS if _plain(name) not in places]
    if missing:
        raise UnusableCSVError(
            error_type="MissingColumns", message=f"The file lacks {len(missing)} columns: {', '.join(missing[:5])}."
        )
    known = (*REQUIRED_COLUMNS, LABEL_COLUMN)
    return {name: places[_plain(name)] for name in known if _plain(name) in places}


def _plain(name: str) -> str:
    """`Senior Citizen`, `senior_citizen` and `SeniorCitizen` are one column."""
    return name.strip().lower().replace(" ", "").replace("_", "")


def _customer(row: Sequence[str], columns: dict[str, int], width: int, number: int) -> Customer:
    if len(row) != width:
        raise UnusableCSVError(
            error_type="RowLength",
            message=f"Row {number} has {len(row)} cells, the header has {width}: is the file cut off?",
        )
    features: dict[str, str | float] = {name: row[columns[name]].strip() for name in CATEGORIES}
    features.update({name: _number(row[columns[name]], name, number) for name in NUMBERS})
    label = row[columns[LABEL_COLUMN]].strip().lower() if LABEL_COLUMN in columns else ""
    return Customer(row[columns[ID_COLUMN]], features, label in {"yes", "1", "true"} if label else None)


def _number(cell: str, name: str, number: int) -> float:
    if not cell.strip() and name in MAY_BE_BLANK:
        return 0.0
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UnusableCSVError(error_type="BadNumber", message=f"Row {number}: {name} is not a number.")
    return value
