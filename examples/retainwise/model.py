"""
The churn model: a logistic regression on standardised, one-hot encoded columns.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import joblib
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from examples.retainwise.csv_checks import Customer


class Model(NamedTuple):
    """
    A trained model.

    Attributes:
        version: Which training it is from.
        pipeline: The fitted scikit-learn pipeline.
    """

    version: str
    pipeline: Pipeline

    def churn_probabilities(self, customers: Sequence[Customer]) -> list[float]:
        """
        Score customers.

        Args:
            customers: At least one.

        Returns:
            The probability of leaving, 0 to 1, in the same order.
        """
        rows = [customer.features for customer in customers]
        return [float(pair[1]) for pair in self.pipeline.predict_proba(rows)]


def train(customers: Sequence[Customer], version: str) -> Model:
    """
    Fit the model.

    Args:
        customers: Labelled customers, some of whom left; those without a label are left out.
        version: What to call the result.
    """
    labelled = [customer for customer in customers if customer.churned is not None]
    pipeline = make_pipeline(DictVectorizer(sparse=False), StandardScaler(), LogisticRegression(max_iter=1_000))
    pipeline.fit([customer.features for customer in labelled], [customer.churned for customer in labelled])
    return Model(version, pipeline)


def save(model: Model, path: Path) -> None:
    """
    Write the model to a file.
    """
    joblib.dump(tuple(model), path)


def load(path: Path) -> Model:
    """
    Read a model that `save` wrote.

    Raises:
        Exception: The file is missing, damaged, or of another scikit-learn; unpickling fails in any way it likes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", InconsistentVersionWarning)
        return Model(*joblib.load(path))
