"""The rows of log.csv, and what follows from them alone: best epoch, patience, learning rate.

Nothing else remembers the past of a training, so a training that is resumed with its rows remembers all of it.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from tf_liver import files
from tf_liver.experiment import Experiment

Row = dict[str, float]

MONITOR = "val_dice"
PLATEAU_EPOCHS = 5
PLATEAU_FACTOR = 0.5
PLATEAU_GAIN = 1e-4  # a smaller rise of the monitor does not end a plateau


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the first of the rows with the highest validation Dice; None before the first epoch."""
    return max(rows, key=lambda row: row[MONITOR], default=None)


def has_stalled(rows: Sequence[Row], patience: int) -> bool:
    """Return whether `patience` epochs went by without a better validation Dice; 0 is patience without end."""
    best = best_row(rows)
    return bool(patience and best and rows[-1]["epoch"] - best["epoch"] >= patience)


def learning_rate(rows: Sequence[Row], experiment: Experiment) -> float:
    """Return the rate of the epoch after `rows` under the schedules `constant` and `plateau`."""
    rate, best, waited = experiment.learning_rate, -1.0, 0
    if experiment.schedule != "plateau":
        return rate
    for row in rows:
        waited += 1
        if row[MONITOR] > best + PLATEAU_GAIN:
            best, waited = row[MONITOR], 0
        elif waited == PLATEAU_EPOCHS:
            rate, waited = rate * PLATEAU_FACTOR, 0
    return rate


def write_log(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows as CSV, whole or not at all."""
    text = io.StringIO()
    names = sorted({name for row in rows for name in row} - {"epoch"})
    table = csv.DictWriter(text, ["epoch", *names], restval="")
    table.writeheader()
    table.writerows(rows)
    files.write_atomic(path, text.getvalue())
