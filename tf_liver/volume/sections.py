"""What the parts of a report say: cards, tables, charts, and what is shown of each case."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from tf_liver.volume import figures
from tf_liver.volume.evaluation import Evaluation
from tf_liver.volume.planes import Views
from tf_liver.volume.words import SHARES, Cell, Column, columns_of, number, number_cell, score_title

CARDS = ("dice", "nsd", "assd_mm", "hd95_mm", "volume_difference_ml")
FIGURES = ("mean", "sd", "median", "q1", "q3", "low", "high", "undefined")
_OF_SUMMARY = {"run", "checkpoint", "predictions", "data", "cases", "regions"}


@dataclass(frozen=True)
class Chart:
    """A chart, its words, and what it shows for those who do not see it."""

    title: str
    caption: str
    alt: str
    svg: Markup


@dataclass(frozen=True)
class Card:
    """One score over all cases."""

    title: str
    mean: Cell
    lines: list[str]
    undefined: int


@dataclass(frozen=True)
class Region:
    """Cards and table of one region."""

    name: str
    cases: int
    cards: list[Card]
    columns: list[Column]
    rows: list[list[tuple[Column, Cell]]]
    more: bool

    @classmethod
    def of(cls, evaluation: Evaluation, name: str, anchors: Mapping[str, str]) -> "Region":
        """Return a region's part of the page, its cases by Dice, the worst first."""
        found = sorted(evaluation.of_region(name), key=lambda row: _known(row["dice"], -1.0))
        columns = columns_of(found)
        figures_of = evaluation.summary.get("regions", {}).get(name, {})
        keys = [next((key for key in figures_of if _is(key, wanted)), None) for wanted in CARDS]
        cards = [_card(key, figures_of[key], len(found)) for key in keys if key]
        rows = [[(c, _cell(c, row, anchors)) for c in columns] for row in found]
        return cls(name, len(found), cards, columns, rows, any(c.more for c in columns))


@dataclass(frozen=True)
class ShownCase:
    """One case as the page shows it; `badness` puts the worst first."""

    case_id: str
    anchor: str
    badness: float
    headline: str
    scores: list[tuple[str, list[tuple[Column, Cell]]]]
    views: Views
    about: str
    profile: Chart | None

    @classmethod
    def of(cls, evaluation: Evaluation, number_of_case: int, views: Views) -> "ShownCase":
        """Return a case: by the mean Dice of its regions; one without any comes before all others."""
        rows = evaluation.of_case(views.case_id)
        dices = [d for d in (number(row["dice"]) for row in rows.values()) if d is not None]
        said = [f"{r} Dice {number_cell('dice', row['dice'], '').text or '–'}" for r, row in rows.items()]
        scores = [
            (r, [(c, cell) for c in columns_of(evaluation.of_region(r))[1:] if (cell := _cell(c, row, {})).text != ""])
            for r, row in rows.items()
        ]
        anchor = f"case-{number_of_case}"
        profile = _profile(views, anchor) if views.planes else None
        badness = float(np.mean(dices)) if dices else -1.0
        return cls(views.case_id, anchor, badness, " · ".join(said), scores, views, _about(views), profile)


def title(summary: Mapping[str, Any]) -> str:
    """Return what was evaluated."""
    return f"Evaluation of {Path(str(summary.get('run') or summary.get('predictions') or 'a model')).name}"


def facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was evaluated, on what."""
    known = ("run", "predictions", "checkpoint", "data", "cases")
    return [(key, str(summary[key])) for key in known if summary.get(key) is not None]


def all_figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return every figure of summary.json: a line a score, and what else it holds."""
    lines = [
        {"region": region, "title": score_title(key), "cells": [_figure_cell(key, name, f) for name in FIGURES]}
        for region, scores in summary.get("regions", {}).items()
        for key, f in scores.items()
        if isinstance(f, Mapping)
    ]
    others = [(k, v) for k, v in _flat(summary) if k.split(" ")[0] not in _OF_SUMMARY]
    return {
        "names": ("mean", "SD", "median", "Q1", "Q3", "95 % from", "to", "undefined"),
        "lines": lines,
        "others": others,
    }


def charts(evaluation: Evaluation, run: Path | None) -> list[Chart]:
    """Return the charts over all cases, and the learning curves of the run where it has a log."""
    found = []
    for region in evaluation.regions:
        rows = evaluation.of_region(region)
        if len(rows) > 1:
            found += [*_boxes(region, rows), *_bland_altman(region, rows)]
    log = run / "log.csv" if run else None
    if log and log.is_file() and (columns := _read_log(log)):
        found.append(_curves(columns))
    return found


def _boxes(region: str, rows: list[dict[str, str]]) -> list[Chart]:
    keys = [c.key for c in columns_of(rows)[1:] if c.kind == "number"]
    groups = (
        ("shares", [k for k in keys if k.startswith(SHARES)], "share of 1, more is better", "low"),
        ("distances", [k for k in keys if k.endswith("_mm")], "mm, less is better", "high"),
    )
    found = []
    for name, chosen, label, worst in groups:
        scores = {
            score_title(key).removesuffix(", mm"): values
            for key in chosen
            if (values := {r["case_id"]: v for r in rows if (v := number(r[key])) is not None})
        }
        if not scores:
            continue
        medians = [f"{key} {np.median(list(v.values())):.3g} (n = {len(v)})" for key, v in scores.items()]
        dropped = [k for k, v in scores.items() if len(v) < len(rows)]
        caption = (
            "Every case is a point, the worst has its name; median, quartiles, whiskers to 1.5 interquartile ranges"
        )
        caption += f". Undefined in some cases: {', '.join(dropped)}." if dropped else "."
        svg = Markup(figures.box_plots(f"box-{name}-{region}", scores, label, worst))
        found.append(
            Chart(f"{region.capitalize()}, {name}", caption, f"Box plots. Medians: {'; '.join(medians)}.", svg)
        )
    return found


def _bland_altman(region: str, rows: list[dict[str, str]]) -> list[Chart]:
    pairs = {
        row["case_id"]: (a, b)
        for row in rows
        if (a := number(row.get("reference_ml"))) is not None and (b := number(row.get("prediction_ml"))) is not None
    }
    if len(pairs) < 2:
        return []
    reference, prediction = np.array(list(pairs.values())).T
    bias, low, high = figures.agreement(reference, prediction)
    texts = [number_cell("difference_ml", f"{ml:.1f}", "").text for ml in (bias, low, high)]
    said = f"Bias {texts[0]} ml" + (f", 95 % limits of agreement {texts[1]} to {texts[2]} ml" if texts[1] else "")
    svg = Markup(figures.bland_altman(f"volumes-{region}", list(pairs), reference, prediction))
    return [Chart(f"{region.capitalize()}, volumes (Bland–Altman)", f"{said}.", f"Bland–Altman plot. {said}.", svg)]


def _curves(log: dict[str, np.ndarray]) -> Chart:
    last = {k: log[k][-1] for k in ("loss", "val_loss", "dice", "val_dice") if k in log}
    said = f"{len(log['epoch'])} epochs; at the end " + ", ".join(f"{k} {v:.3g}" for k, v in last.items())
    caption = "Training (solid) and validation (dashed); the diamond marks the best validation Dice"
    return Chart(
        "Learning curves", f"{caption}.", f"Learning curves: {said}.", Markup(figures.learning_curves("log", log))
    )


def _read_log(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a log.csv; nothing where it holds no epoch."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    values = {k: np.array([_known(row[k], np.nan) for row in rows]) for k in (rows[0] if rows else ())}
    return values if "epoch" in values else {}


def _profile(views: Views, anchor: str) -> Chart:
    shown = [plane.number for plane in views.planes if plane.kind == "axial"]
    dice = next(iter(views.profiles.values())).dice
    caption = "Dice of each axial slice, with gaps where both masks are empty, and the areas of both."
    alt = f"Dice of {views.case_id} along its slices: both masks are empty throughout."
    if np.isfinite(dice).any():
        lowest = int(np.nanargmin(dice))
        alt = f"Dice of {views.case_id} along its slices: median {np.nanmedian(dice):.3f}"
        alt += f", lowest {dice[lowest]:.3f} in slice {lowest + 1}."
    return Chart("Along the slices", caption, alt, Markup(figures.dice_along(f"{anchor}-dice", views.profiles, shown)))


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
        return number_cell(key, values.get(name), "").text

    missing = int(values.get("undefined") or 0)
    lines = []
    if cases - missing > 1 and text("sd"):
        lines = [
            f"95 % CI {text('low')} to {text('high')}",
            f"SD {str(text('sd')).removeprefix('+')} · median {text('median')}",
            f"quartiles {text('q1')} to {text('q3')}",
        ]
    of_cases = "one case" if cases == 1 else "mean"
    return Card(
        f"{score_title(key)}, {of_cases}", number_cell(key, values.get("mean"), "no case has it"), lines, missing
    )


def _figure_cell(key: str, name: str, values: Mapping[str, Any]) -> Cell:
    if name == "undefined":
        return Cell(str(values.get(name, 0)))
    return number_cell(key, values.get(name), "too few cases")


def _cell(column: Column, row: Mapping[str, str], anchors: Mapping[str, str]) -> Cell:
    text = row[column.key]
    if column.kind == "number":
        return number_cell(column.key, text, row.get("note") or "not defined for this case")
    return Cell(text, sort=text, link=anchors.get(row["case_id"], ""))


def _is(key: str, wanted: str) -> bool:
    return key == wanted or key.startswith(f"{wanted}_")


def _known(text: str, otherwise: float) -> float:
    value = number(text)
    return otherwise if value is None else value


def _flat(table: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Return a nested table as (words, value)."""
    found = []
    for key, value in table.items():
        name = f"{before} {key}".strip()
        found += _flat(value, name) if isinstance(value, Mapping) else [(name, str(value))]
    return found
