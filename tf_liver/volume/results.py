"""What an evaluation leaves in its folder: metrics.csv, summary.json, overlay.png, beside predictions/."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tf_liver import files
from tf_liver.command import one_line
from tf_liver.data import DataWarning
from tf_liver.data.cases import Case
from tf_liver.volume import tables
from tf_liver.volume.overlay import side_by_side
from tf_liver.volume.scoring import CaseResult, picture

PICTURES = 4


def write_results(output: Path, results: Sequence[CaseResult], summary: dict[str, Any]) -> str:
    """Write the scores of the cases that could be scored, and return them as text for a terminal.

    summary: from `summary.summarise`. The cases' label maps must lie in <output>/predictions.
    """
    done = [result for result in results if result.rows]
    rows = [row for result in done for row in result.rows.values()]
    files.write_atomic(output / "metrics.csv", tables.metrics_csv(rows))
    files.write_atomic(output / "summary.json", tables.to_json(summary))
    if pictures := _pictures([result.case for result in done[:PICTURES]], output / "predictions"):
        _, png = cv2.imencode(".png", side_by_side(pictures)[..., ::-1])
        files.write_atomic(output / "overlay.png", png.tobytes())
    written = f"written to {output}: metrics.csv, summary.json, overlay.png, predictions/"
    return "\n".join([tables.table(rows), tables.summary_lines(summary), written])


def _pictures(cases: Sequence[Case], predictions: Path) -> list[np.ndarray]:
    """Return a picture of each case; a scan that cannot be shown is said, and no reason to lose its scores."""
    pictures = []
    for case in cases:
        try:
            pictures.append(picture(case, predictions))
        except (ValueError, OSError) as error:
            warnings.warn(f"no picture of case {case.case_id}: {one_line(error)}", DataWarning, stacklevel=2)
    return pictures
