"""Scores as a table on the screen, metrics.csv and summary.json."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tf_liver.cells import to_csv
from tf_liver.volume import intervals
from tf_liver.volume.scores import RegionScores

COLUMNS = [field.name for field in dataclasses.fields(RegionScores)]
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
    """Return the rows as text for a terminal; what is undefined, or of a region that the reference lacks, is a dash."""
    head = ["case", "region", *(heading for heading, _, _ in _COLUMNS)]
    lines = [[row.case_id, row.region, *(_shown(row, name, form) for _, name, form in _COLUMNS)] for row in rows]
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


def _shown(row: RegionScores, name: str, form: str) -> str:
    value = getattr(row, name)
    scored = row.reference_ml > 0 or name.endswith("_ml")
    return f"{value:{form}}" if scored and not math.isnan(value) else "–"


def metrics_csv(rows: Iterable[RegionScores]) -> str:
    """Return the rows as CSV, one a case and region, with a header line; undefined or not applicable is empty."""
    return to_csv(COLUMNS, map(cells_of, rows))


def cells_of(row: RegionScores) -> dict[str, Any]:
    """Return the cells of a row of metrics.csv by column."""
    cells = dataclasses.asdict(row)
    return {name: "" if isinstance(v, float) and math.isnan(v) else v for name, v in cells.items()}


def to_json(summary: dict[str, Any]) -> str:
    """Return a summary as JSON text; it must hold no NaN, which is not JSON."""
    return json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def summary_lines(summary: dict[str, Any]) -> str:
    """Return a line a region with what a reader looks for first, and one of what to doubt."""
    lines = [_summary_line(name, summary) for name in summary["regions"]]
    if doubtful := summary.get("placeholder_spacing"):
        lines.append(f"placeholder spacing, so millilitres and millimetres mean nothing: {', '.join(doubtful)}")
    return "\n".join(lines)


def _summary_line(region: str, summary: dict[str, Any]) -> str:
    of_cases, pooled = summary["regions"][region], summary["pooled"][region]
    mean = {name: _known(figures["mean"], ".4f") for name, figures in of_cases.items()}
    hd95 = of_cases["hd95_mm"]
    undefined = f" ({hd95['undefined']} undefined)" if hd95["undefined"] else ""
    shown = "–" if hd95["mean"] is None else f"{hd95['mean']:.1f} mm"
    return (
        f"{region}: mean Dice {mean['dice']} ({intervals.in_words(of_cases['dice'])}), IoU {mean['iou']}, "
        f"NSD 2 mm {mean['nsd_2mm']}, HD95 {shown}{undefined} over {over_cases(region, summary)}; "
        f"all voxels: Dice {pooled['dice']:.4f}, PA {pooled['pixel_accuracy']:.4f}, mIoU {pooled['mean_iou']:.4f}"
    )


def over_cases(region: str, summary: Mapping[str, Any]) -> str:
    """Return over how many cases a region's means are, and what was claimed in the others."""
    held, free = summary["cases_with_region"][region], summary["false_positives"][region]
    if not free["cases"]:
        return f"{held} cases"
    return f"{held} cases that hold it (of {free['cases']} without it {false_positives_in_words(free)})"


def false_positives_in_words(free: Mapping[str, Any]) -> str:
    """Return what was claimed in cases without a region: 2 with false positives, 3 lesions, 12.5 ml."""
    lesions = f", {free['lesions']:g} lesion{'s' * (free['lesions'] != 1)}" if "lesions" in free else ""
    return f"{free['with_prediction']} with false positives{lesions}, {free['ml']:.1f} ml"


def _known(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"
