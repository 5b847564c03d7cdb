"""
A labelled sample of customers, made up from a seed: the same on every machine, and nobody's data.

Its columns and habits are those of a telephone company's churn file: short tenures, monthly contracts and fibre leave
more often, and whoever joined this month has no total charges yet.
"""

from __future__ import annotations

import csv
import io
import math
import random

from examples.retainwise.csv_checks import CATEGORIES, ID_COLUMN, LABEL_COLUMN

COLUMNS = (
    ID_COLUMN,
    *CATEGORIES[:4],
    "tenure",
    *CATEGORIES[4:],
    "MonthlyCharges",
    "TotalCharges",
    LABEL_COLUMN,
)
SEED = 20_240_601
CUSTOMERS = 2_000

ADD_ONS = ("OnlineSecurity", "OnlineBackup", "DeviceProtection", "TechSupport", "StreamingTV", "StreamingMovies")
NEVER_INTERNET = "No internet service"

Row = dict[str, str]


def sample_csv(customers: int = CUSTOMERS, seed: int = SEED) -> bytes:
    """
    Make the sample.

    Args:
        customers: How many rows.
        seed: Which sample; the same seed gives the same bytes.

    Returns:
        A CSV file with a header and a `Churn` column.
    """
    chance = random.Random(seed)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_customer(chance, number) for number in range(customers))
    return text.getvalue().encode()


def _customer(chance: random.Random, number: int) -> Row:
    row = _person(chance, number) | _services(chance) | _contract(chance)
    tenure = _tenure(chance, row["Contract"])
    monthly = _monthly_charges(chance, row)
    total = tenure * monthly * chance.uniform(0.96, 1.04)
    row |= {
        "tenure": str(tenure),
        "MonthlyCharges": f"{monthly:.2f}",
        "TotalCharges": f"{total:.2f}" if tenure else " ",
    }
    row[LABEL_COLUMN] = _yes_no(chance, _churn_probability(row, tenure))
    return row


def _person(chance: random.Random, number: int) -> Row:
    partner = _yes_no(chance, 0.48)
    return {
        ID_COLUMN: f"{number:04d}-{''.join(chance.choices('ABCDEFGHJKLMNPQRSTUVWXYZ', k=5))}",
        "gender": chance.choice(("Female", "Male")),
        "SeniorCitizen": "1" if chance.random() < 0.16 else "0",
        "Partner": partner,
        "Dependents": _yes_no(chance, 0.5 if partner == "Yes" else 0.1),
    }


def _services(chance: random.Random) -> Row:
    internet = chance.choices(("DSL", "Fiber optic", "No"), weights=(34, 44, 22))[0]
    phone = _yes_no(chance, 0.82) if internet == "DSL" else "Yes"
    row = {
        "PhoneService": phone,
        "MultipleLines": _yes_no(chance, 0.46) if phone == "Yes" else "No phone service",
        "InternetService": internet,
    }
    return row | {name: NEVER_INTERNET if internet == "No" else _yes_no(chance, 0.42) for name in ADD_ONS}


def _contract(chance: random.Random) -> Row:
    methods = ("Electronic check", "Mailed check", "Bank transfer (automatic)", "Credit card (automatic)")
    return {
        "Contract": chance.choices(("Month-to-month", "One year", "Two year"), weights=(55, 21, 24))[0],
        "PaperlessBilling": _yes_no(chance, 0.59),
        "PaymentMethod": chance.choices(methods, weights=(34, 23, 22, 21))[0],
    }


def _tenure(chance: random.Random, contract: str) -> int:
    """Months, 0 to 72; long contracts go with long tenures."""
    low, high, most = {"Month-to-month": (0, 72, 2), "One year": (1, 72, 44), "Two year": (1, 72, 72)}[contract]
    return round(chance.triangular(low, high, most))


def _monthly_charges(chance: random.Random, row: Row) -> float:
    base = {"DSL": 24.0, "Fiber optic": 49.0, "No": 0.0}[row["InternetService"]]
    lines = {"Yes": 25.0, "No": 20.0, "No phone service": 0.0}[row["MultipleLines"]]
    add_ons = sum(6.5 for name in ADD_ONS if row[name] == "Yes")
    return max(18.25, base + lines + add_ons + chance.gauss(0, 1.5))


def _churn_probability(row: Row, tenure: int) -> float:
    score = {"Month-to-month": 0.2, "One year": -0.9, "Two year": -2.0}[row["Contract"]] - 0.03 * tenure
    score += {"DSL": -0.3, "Fiber optic": 0.7, "No": -0.9}[row["InternetService"]]
    score += 0.35 * (row["PaymentMethod"] == "Electronic check") + 0.3 * (row["PaperlessBilling"] == "Yes")
    score -= 0.4 * (row["TechSupport"] == "Yes") + 0.4 * (row["OnlineSecurity"] == "Yes")
    return 1 / (1 + math.exp(-score))


def _yes_no(chance: random.Random, probability: float) -> str:
    return "Yes" if chance.random() < probability else "No"
