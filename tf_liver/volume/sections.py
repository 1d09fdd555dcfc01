"""What the parts of a report say: cards, tables, and what is shown of each case."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_liver.data import LIVERS
from tf_liver.volume.charts import Chart, profile_chart
from tf_liver.volume.evaluation import Evaluation
from tf_liver.volume.intervals import limits_of
from tf_liver.volume.planes import Views
from tf_liver.volume.words import Cell, Column, columns_of, number, number_cell, score_title

CARDS = ("dice", "nsd_2mm", "hd95_mm", "assd_mm", "volume_difference_ml")
WORST = 3
FIGURES = ("mean", "sd", "median", "q1", "q3", "low", "high", "patients", "undefined")
_SHOWN_ELSEWHERE = {
    "interval",
    "run",
    "checkpoint",
    "predictions",
    "data",
    "liver",
    "cases",
    "regions",
    "failed",
    "patients",
    "placeholder_spacing",
}


@dataclass(frozen=True)
class Card:
    """One score over all cases."""

    title: str
    mean: Cell
    lines: list[str]
    undefined: int


@dataclass(frozen=True)
class Region:
    """Cards, the worst cases and table of one region; cases: those whose reference holds it."""

    name: str
    cases: int
    without: str
    worst: list[str]
    cards: list[Card]
    columns: list[Column]
    rows: list[list[tuple[Column, Cell]]]
    more: bool

    @classmethod
    def of(cls, evaluation: Evaluation, name: str, anchors: Mapping[str, str]) -> "Region":
        """Return a region's part of the page, its cases by Dice, the worst first."""
        rows, held, worst = evaluation.of_region(name), len(evaluation.held(name)), evaluation.worst_first(name)
        figures_of = evaluation.figures_of(name)
        columns = columns_of(rows, figures_of)
        cards = [_card(key, figures_of[key], held) for key in CARDS if key in figures_of]
        cards += _lesions(evaluation.summary) if name == "tumour" else []
        cards += _claims(evaluation.summary["false_positives"][name])
        without = (
            f"Means are over the {held} of {len(rows)} cases whose reference holds it." if held < len(rows) else ""
        )
        rest = [row for row in rows if row not in worst]
        table = [[(c, _cell(c, row, anchors)) for c in columns] for row in worst + rest]
        first = [row["case_id"] for row in worst[:WORST]] if len(rows) > WORST else []
        return cls(name, held, without, first, cards, columns, table, any(c.more for c in columns))


@dataclass(frozen=True)
class ShownCase:
    """One case as the page shows it; the smallest `place` comes first."""

    case_id: str
    anchor: str
    place: tuple[float, int]
    headline: str
    scores: list[tuple[str, list[tuple[Column, Cell]]]]
    views: Views
    about: str
    profile: Chart | None

    @classmethod
    def of(cls, evaluation: Evaluation, number_of_case: int, views: Views) -> "ShownCase":
        """Return a case by its place among the worst of any region; one that is in no region's comes last."""
        rows = evaluation.of_case(views.case_id)
        said = [_headline(region, row) for region, row in rows.items()]
        scores = [
            (
                r,
                [
                    (c, cell)
                    for c in columns_of(evaluation.of_region(r), evaluation.figures_of(r))[1:]
                    if (cell := _cell(c, row, {})).text != ""
                ],
            )
            for r, row in rows.items()
        ]
        anchor = f"case-{number_of_case}"
        profile = profile_chart(views, anchor) if views.planes else None
        return cls(
            views.case_id,
            anchor,
            _place(evaluation, views.case_id),
            " · ".join(said),
            scores,
            views,
            _about(views),
            profile,
        )


def _place(evaluation: Evaluation, case_id: str) -> tuple[float, int]:
    """Return the first place of a case among the worst of a region, and which region's that is."""
    places = []
    for number_of_region, region in enumerate(evaluation.regions):
        order = [row["case_id"] for row in evaluation.worst_first(region)]
        places += [(float(order.index(case_id)), number_of_region)] if case_id in order else []
    return min(places, default=(math.inf, 0))


def _headline(region: str, row: Mapping[str, str]) -> str:
    if number(row.get("reference_ml")) != 0:
        return f"{region} Dice {number_cell('dice', row['dice'], '').text or '–'}"
    claimed = number_cell("prediction_ml", row.get("prediction_ml"), "").text
    return f"no {region}" + (f", {claimed} ml claimed" if number(row.get("prediction_ml")) else "")


def title(summary: Mapping[str, Any]) -> str:
    """Return what was evaluated."""
    return f"Evaluation of {Path(str(summary.get('run') or summary.get('predictions') or 'a model')).name}"


def facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was evaluated, on what."""
    found = [(key, str(summary[key])) for key in ("run", "predictions", "checkpoint", "data") if summary.get(key)]
    labels = LIVERS.get(summary.get("liver", ""))
    said = [("liver", f"label{'s' * (len(labels) > 1)} {' and '.join(map(str, labels))}")] if labels else []
    return [*found, *said, ("cases", str(summary.get("cases", "–")))]


def all_figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return every figure of summary.json: a line a score, and what else it holds."""
    lines = [
        {"region": region, "title": score_title(key), "cells": [_figure_cell(key, name, f) for name in FIGURES]}
        for region, scores in summary.get("regions", {}).items()
        for key, f in scores.items()
        if isinstance(f, Mapping)
    ]
    others = _flat({key: value for key, value in summary.items() if key not in _SHOWN_ELSEWHERE})
    return {
        "names": ("mean", "SD", "median", "Q1", "Q3", "95 % from", "to", "patients", "undefined"),
        "lines": lines,
        "others": others,
    }


def _about(views: Views) -> str:
    """Return what the scan is, and which planes it is too thin for."""
    if not views.planes:
        return ""
    shape = " × ".join(map(str, views.shape))
    spacing = " × ".join(f"{mm:.3g}" for mm in views.spacing_mm)
    thin = {"axial", "coronal", "sagittal"} - {p.kind for p in views.planes}
    said = f"; too thin to show in {' and '.join(sorted(thin))} planes" if thin else ""
    return f"{shape} voxels of {spacing} mm (right, anterior, superior){said}."


def _card(key: str, values: Mapping[str, Any], cases: int) -> Card:
    def text(name: str) -> str | None:
        return _figure_cell(key, name, values).text

    missing = int(values.get("undefined") or 0)
    lines = []
    if cases - missing > 1 and text("sd"):
        people = f"{values['patients']} patients" if values.get("patients") else ""
        interval = f"95 % CI |{text('low')} to {text('high')}" + f" |({people})" * bool(people)
        lines = [
            _kept(
                interval
                if text("low")
                else "no 95 % CI: |" + values.get("no_interval", "too few patients").replace(", ", ", |")
            ),
            _kept(f"SD {text('sd')} · |median {text('median')}"),
            _kept(f"quartiles |{text('q1')} to {text('q3')}"),
        ]
    of_cases = "one case" if cases == 1 else "mean"
    return Card(
        f"{score_title(key)}, {of_cases}", number_cell(key, values.get("mean"), "no case has it"), lines, missing
    )


def _kept(line: str) -> str:
    """Return a line that may be broken at | only."""
    return line.replace(" |", "|").replace(" ", "\N{NO-BREAK SPACE}").replace("|", " ")


def _lesions(summary: Mapping[str, Any]) -> list[Card]:
    """Return the card of lesion detection, where summary.json has it."""
    lesions = summary.get("lits", {}).get("lesions")
    if not lesions:
        return []
    found, there = lesions["found"], lesions["found"] + lesions["missed"]
    shown = Cell(f"{found} of {there}") if there else Cell(None, reason="no lesion in any reference")
    return [Card("lesions found, IoU > 0.5", shown, [f"{lesions['invented']} invented"], 0)]


def _claims(free: Mapping[str, Any]) -> list[Card]:
    """Return the card of what is claimed in cases whose reference lacks the region, where there are any."""
    if not free["cases"]:
        return []
    lesions = [f"{free['lesions']:g} lesions"] if "lesions" in free else []
    shown = Cell(f"{free['with_prediction']} of {free['cases']}")
    return [Card("false positives, cases without it", shown, [*lesions, f"{free['ml']:,.1f} ml"], 0)]


def _figure_cell(key: str, name: str, values: Mapping[str, Any]) -> Cell:
    if name in ("undefined", "patients"):
        return Cell(str(values.get(name, 0)))
    if name == "sd":  # the spread of a difference has no sign
        key = key.replace("difference", "")
    return number_cell(key, values.get(name), values.get("no_interval") or "too few cases")


def _cell(column: Column, row: Mapping[str, str], anchors: Mapping[str, str]) -> Cell:
    text = row[column.key]
    overlap = limits_of(column.key) == (0, 1) and not column.key.startswith("burden")
    if overlap and number(row.get("reference_ml")) == 0:
        return number_cell(column.key, None, row.get("note") or "not in the reference")
    if column.kind == "number":
        return number_cell(column.key, text, row.get("note") or "not defined for this case")
    return Cell(text, sort=text, link=anchors.get(row["case_id"], ""))


def _flat(table: Mapping[str, Any], before: str = "") -> list[tuple[str, Cell]]:
    """Return a nested table as (words, value)."""
    found = []
    for key, value in table.items():
        name = f"{before} {score_title(key)}".strip()
        if isinstance(value, Mapping):
            found += _flat(value, name)
        else:
            text = not isinstance(value, int | float | None)
            found.append((name, Cell(str(value)) if text else number_cell(key, value, "no case has it")))
    return found
