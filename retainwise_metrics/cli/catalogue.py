"""
The catalogue of metrics, written for readers: Terraform (JSON), the docs (Markdown), and people at a terminal (rows).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from retainwise_metrics.catalogue import CATALOGUE

if TYPE_CHECKING:
    from retainwise_metrics.catalogue import DimensionSets, MetricSpec

COLUMNS = ("Metric", "Unit", "Dimension sets", "Zeros", "Meaning")


def ordered() -> tuple[MetricSpec, ...]:
    """
    Sort the catalogue.

    Returns:
        Every metric, by namespace and name, so that a new metric changes one place of a generated file.
    """
    return tuple(sorted(CATALOGUE, key=lambda spec: (str(spec.namespace), spec.name)))


def as_json() -> str:
    """
    Write the catalogue as Terraform reads it.

    Returns:
        A JSON list of objects with two spaces of indent and a newline at the end.
    """
    return json.dumps([_as_object(spec) for spec in ordered()], indent=2) + "\n"


def as_markdown() -> str:
    """
    Write the catalogue as the docs hold it.

    Returns:
        One section and table per namespace, with a newline at the end.
    """
    sections = []
    for namespace in namespaces():
        rows = [_markdown_row(row) for row in rows_of(namespace, code="`")]
        heading = [f"## `{namespace}`", "", _markdown_row(COLUMNS), "|---" * len(COLUMNS) + "|"]
        sections.append("\n".join([*heading, *rows]))
    return "\n\n".join(sections) + "\n"


def namespaces() -> tuple[str, ...]:
    """
    List the namespaces.

    Returns:
        Each namespace of the catalogue once, sorted.
    """
    return tuple(sorted({str(spec.namespace) for spec in CATALOGUE}))


def rows_of(namespace: str, *, code: str = "") -> tuple[tuple[str, ...], ...]:
    """
    List the metrics of one namespace as text.

    Args:
        namespace: One of `namespaces()`.
        code: What is put around names, such as a backtick in Markdown.

    Returns:
        One row per metric, with the columns of `COLUMNS`.
    """
    return tuple(
        (
            f"{code}{spec.name}{code}",
            spec.unit.value,
            _sets_as_text(spec.dimension_sets, code=code),
            "yes" if spec.emits_zero else "no",
            spec.meaning if code else spec.meaning.replace("`", ""),
        )
        for spec in ordered()
        if str(spec.namespace) == namespace
    )


def _as_object(spec: MetricSpec) -> dict[str, object]:
    return {
        "name": spec.name,
        "namespace": str(spec.namespace),
        "unit": spec.unit.value,
        "dimension_sets": [list(keys) for keys in spec.dimension_sets],
        "emits_zero": spec.emits_zero,
        "meaning": spec.meaning,
    }


def _sets_as_text(sets: DimensionSets, *, code: str) -> str:
    return "; ".join(", ".join(f"{code}{key}{code}" for key in keys) or "none" for keys in sets)


def _markdown_row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
