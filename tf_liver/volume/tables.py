"""Scores as a table on the screen, metrics.csv and summary.json."""

import csv
import dataclasses
import io
import json
from typing import Any

import numpy as np

from tf_liver.volume import scores
from tf_liver.volume.scores import CaseScores, Counts


def table(rows: list[CaseScores]) -> str:
    """Return the rows as text for a terminal."""
    width = max(len("case"), *(len(r.case_id) for r in rows))
    lines = [f"{'case':<{width}}   Dice    IoU     PA   mIoU  reference ml  prediction ml"]
    for r in rows:
        numbers = f"{r.dice:6.4f} {r.iou:6.4f} {r.pixel_accuracy:6.4f} {r.mean_iou:6.4f}"
        lines.append(
            f"{r.case_id:<{width}} {numbers} {r.reference_ml:13.1f} {r.prediction_ml:14.1f}  {r.note}".rstrip()
        )
    return "\n".join(lines)


def metrics_csv(rows: list[CaseScores]) -> str:
    """Return the rows as CSV, one a case, with a header line."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in dataclasses.fields(CaseScores)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(r) for r in rows)
    return out.getvalue()


def summarise(rows: list[CaseScores], pooled: Counts) -> dict[str, Any]:
    """Return mean and SD over cases, and the scores of all voxels pooled; no case is ever left out."""
    over_cases = {
        name: {
            "mean": float(np.mean(values)),
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
        for name in ("dice", "iou")
        for values in [[getattr(r, name) for r in rows]]
    }
    return {
        "cases": len(rows),
        **over_cases,
        "pixel_accuracy": scores.pixel_accuracy(pooled),
        "mean_iou": scores.mean_iou(pooled),
        "pooled_dice": scores.dice(pooled),
        "no_liver_in_reference": sum("reference" in r.note for r in rows),
        "no_liver_in_prediction": sum("prediction" in r.note for r in rows),
    }


def to_json(summary: dict[str, Any]) -> str:
    """Return the summary as JSON text."""
    return json.dumps(summary, indent=2) + "\n"


def summary_line(summary: dict[str, Any]) -> str:
    """Return one line with what a reader looks for first."""
    return (
        f"mean Dice {summary['dice']['mean']:.4f}, IoU {summary['iou']['mean']:.4f} over {summary['cases']} cases; "
        f"all voxels: PA {summary['pixel_accuracy']:.4f}, mIoU {summary['mean_iou']:.4f}"
    )
