"""Scores as a table on the screen, metrics.csv and summary.json."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from tf_liver.volume.scores import RegionScores

# Heading, score and form of the columns on the screen; metrics.csv holds them all.
_COLUMNS = (
    ("Dice", "dice", ".4f"),
    ("IoU", "iou", ".4f"),
    ("PA", "pixel_accuracy", ".4f"),
    ("mIoU", "mean_iou", ".4f"),
    ("NSD 2 mm", "nsd_2mm", ".4f"),
    ("HD95 mm", "hd95_mm", ".2f"),
    ("ASSD mm", "assd_mm", ".2f"),
    ("reference ml", "reference_ml", ".1f"),
    ("prediction ml", "prediction_ml", ".1f"),
)


def table(rows: Sequence[RegionScores]) -> str:
    """Return the rows as text for a terminal; what is undefined is a dash."""
    head = ["case", "region", *(heading for heading, _, _ in _COLUMNS)]
    lines = [
        [row.case_id, row.region, *(_cell(getattr(row, name), form) for _, name, form in _COLUMNS)] for row in rows
    ]
    return aligned([head, *lines])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return cells in columns, the first two to the left and the others, which are numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{w}}" if n < 2 else f"{cell:>{w}}" for n, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _cell(value: float, form: str) -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"


def metrics_csv(rows: Iterable[RegionScores]) -> str:
    """Return the rows as CSV, one a case and region, with a header line; undefined or not applicable is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in dataclasses.fields(RegionScores)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = dataclasses.asdict(row)
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in cells.items()})
    return out.getvalue()


def to_json(summary: dict[str, Any]) -> str:
    """Return a summary as JSON text; it must hold no NaN, which is not JSON."""
    return json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def summary_lines(summary: dict[str, Any]) -> str:
    """Return a line a region with what a reader looks for first."""
    return "\n".join(_summary_line(name, summary) for name in summary["regions"])


def _summary_line(region: str, summary: dict[str, Any]) -> str:
    of_cases, pooled = summary["regions"][region], summary["pooled"][region]
    dice = of_cases["dice"]
    interval = f" (95 % {dice['low']:.4f} to {dice['high']:.4f})" if dice["low"] is not None else ""
    hd95 = of_cases["hd95_mm"]
    undefined = f" ({hd95['undefined']} undefined)" if hd95["undefined"] else ""
    shown = "–" if hd95["mean"] is None else f"{hd95['mean']:.1f} mm"
    return (
        f"{region}: mean Dice {dice['mean']:.4f}{interval}, IoU {of_cases['iou']['mean']:.4f}, "
        f"NSD 2 mm {of_cases['nsd_2mm']['mean']:.4f}, HD95 {shown}{undefined} over {summary['cases']} cases; "
        f"all voxels: Dice {pooled['dice']:.4f}, PA {pooled['pixel_accuracy']:.4f}, mIoU {pooled['mean_iou']:.4f}"
    )
