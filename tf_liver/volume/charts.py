"""The charts of a report with their words: a caption, and what they show for those who do not see them."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from tf_liver.cells import read_csv
from tf_liver.data import DataWarning
from tf_liver.volume import figures
from tf_liver.volume.evaluation import Evaluation
from tf_liver.volume.planes import Views
from tf_liver.volume.words import SHARES, columns_of, known, number, number_cell, score_title


@dataclass(frozen=True)
class Chart:
    """A chart, its words, and what it shows for those who do not see it."""

    title: str
    caption: str
    alt: str
    svg: Markup


def charts(evaluation: Evaluation, run: Path | None) -> list[Chart]:
    """Return the charts over all cases, and the learning curves of the run where it has a log."""
    found = []
    for region in evaluation.regions:
        rows = evaluation.of_region(region)
        if len(held := evaluation.held(region)) > 1:
            found += _boxes(region, held, evaluation.figures_of(region))
        if len(rows) > 1:
            found += _bland_altman(region, rows)
    if run and (columns := _read_log(run / "log.csv")):
        found.append(_curves(columns))
    return found


def _boxes(region: str, rows: list[dict[str, str]], applies: Mapping[str, Any]) -> list[Chart]:
    keys = [c.key for c in columns_of(rows, applies)[1:] if c.kind == "number"]
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
        caption = f"Every case whose reference holds {region} is a point, the worst has its name; median, quartiles, "
        caption += "whiskers to 1.5 interquartile ranges"
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
    """Return the columns of a log.csv; nothing where it holds no epoch, or, with a warning, where it is damaged."""
    try:
        columns, rows = read_csv(path)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:  # the scores are worth more than the curves
        warnings.warn(f"no learning curves: {error}", DataWarning, stacklevel=2)
        return {}
    values = {name: np.array([known(row[name], np.nan) for row in rows]) for name in columns if rows}
    return values if "epoch" in values else {}


def profile_chart(views: Views, anchor: str) -> Chart:
    shown = [plane.number for plane in views.planes if plane.kind == "axial"]
    dice = next(iter(views.profiles.values())).dice
    caption = "Dice of each axial slice, with gaps where both masks are empty, and the areas of both."
    alt = f"Dice of {views.case_id} along its slices: both masks are empty throughout."
    if np.isfinite(dice).any():
        lowest = int(np.nanargmin(dice))
        alt = f"Dice of {views.case_id} along its slices: median {np.nanmedian(dice):.3f}"
        alt += f", lowest {dice[lowest]:.3f} in slice {lowest + 1}."
    return Chart("Along the slices", caption, alt, Markup(figures.dice_along(f"{anchor}-dice", views.profiles, shown)))
