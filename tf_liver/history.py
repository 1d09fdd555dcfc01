"""The rows of log.csv: one an epoch, all that is remembered of the past of a training."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from tf_liver import files

Row = dict[str, float]

MONITOR = "val_dice"  # of the liver; of a tumour model the mean over its regions, see model/metrics.py


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the first of the rows with the highest validation Dice; None before the first epoch."""
    return max(rows, key=lambda row: row[MONITOR], default=None)


def write_log(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows as CSV, whole or not at all."""
    text = io.StringIO()
    names = sorted({name for row in rows for name in row} - {"epoch"})
    table = csv.DictWriter(text, ["epoch", *names], restval="")
    table.writeheader()
    table.writerows(rows)
    files.write_atomic(path, text.getvalue())
