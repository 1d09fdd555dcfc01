"""An evaluation folder, as evaluate writes it and the report reads it."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_liver.data import DataError


@dataclass
class Evaluation:
    """What lies in an evaluation folder."""

    folder: Path
    rows: list[dict[str, str]]
    summary: dict[str, Any]

    @property
    def regions(self) -> list[str]:
        """The regions in the order of metrics.csv."""
        return list(dict.fromkeys(row["region"] for row in self.rows))

    @property
    def run(self) -> Path | None:
        """The run folder that was evaluated, where it still is."""
        path = Path(str(self.summary.get("run")))
        return path if path.is_dir() else None

    def of_region(self, region: str) -> list[dict[str, str]]:
        """Return the rows of one region."""
        return [row for row in self.rows if row["region"] == region]

    def of_case(self, case_id: str) -> dict[str, dict[str, str]]:
        """Return region → row of one case."""
        return {row["region"]: row for row in self.rows if row["case_id"] == case_id}

    def prediction(self, case_id: str) -> Path:
        """Return where the label map of a case lies: here, or where another tool wrote it."""
        folders = [self.folder / "predictions", *map(Path, filter(None, [self.summary.get("predictions")]))]
        for folder in folders:
            for suffix in (".nii.gz", ".nii"):
                if (path := folder / f"{case_id}{suffix}").is_file():
                    return path
        return folders[0] / f"{case_id}.nii.gz"


def read_evaluation(folder: Path) -> Evaluation:
    """Read metrics.csv and summary.json.

    Raises:
        DataError: one of them is missing or is not what evaluate writes.
    """
    try:
        with open(folder / "metrics.csv", newline="", encoding="utf-8") as stream:
            rows = [dict(row) for row in csv.DictReader(stream)]
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: not an evaluation folder: {Path(error.filename).name} is missing") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{folder}: metrics.csv and summary.json must be what evaluate writes: {error}") from error
    broken = [row for row in rows if None in row or None in row.values()]
    if not rows or broken or not {"case_id", "region", "dice"} <= rows[0].keys() or not isinstance(summary, dict):
        found = ", ".join(map(str, rows[0])) if rows else "no rows"
        raise DataError(
            f"{folder / 'metrics.csv'}: must hold whole rows with case_id, region and dice. Received: {found}"
        )
    return Evaluation(folder, rows, summary)
