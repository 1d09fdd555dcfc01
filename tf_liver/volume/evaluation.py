"""An evaluation folder, as evaluate writes it and the report reads it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_liver import files
from tf_liver.cells import read_csv
from tf_liver.data import LIVERS, DataError
from tf_liver.records import Summary
from tf_liver.volume.summary import figures_of_regions
from tf_liver.volume.words import known, number


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

    def figures_of(self, region: str) -> dict[str, Any]:
        """Return score → its figures over all cases, for the scores that apply to a region."""
        return self.summary.get("regions", {}).get(region, {})

    def held(self, region: str) -> list[dict[str, str]]:
        """Return the rows of a region in the cases whose reference holds it."""
        return [row for row in self.of_region(region) if number(row.get("reference_ml")) != 0]

    def worst_first(self, region: str) -> list[dict[str, str]]:
        """Return the rows of a region by Dice, the worst first, of equal ones the larger volume.

        Cases in which neither mask holds the region have nothing to look at, and are not there.
        """

        def volume(row: dict[str, str]) -> float:
            return sum(known(row.get(f"{side}_ml", ""), 1.0) for side in ("reference", "prediction"))

        some = [row for row in self.of_region(region) if volume(row) > 0]
        return sorted(some, key=lambda row: (known(row["dice"], -1.0), -volume(row)))

    def of_case(self, case_id: str) -> dict[str, dict[str, str]]:
        """Return region → row of one case."""
        return {row["region"]: row for row in self.rows if row["case_id"] == case_id}

    @property
    def labels(self) -> dict[str, tuple[int, ...]]:
        """The labels of each region that has any, liver by the convention it was scored with."""
        liver = LIVERS.get(self.summary.get("liver", "whole"), LIVERS["whole"])
        known = {"liver": tuple(liver), "tumour": (2,)}
        return {region: known[region] for region in self.regions if region in known} or {"liver": tuple(liver)}

    def prediction(self, case_id: str) -> Path:
        """Return where the label map of a case lies."""
        return self.folder / "predictions" / f"{case_id}.nii.gz"


def read_evaluation(folder: Path) -> Evaluation:
    """Read metrics.csv and summary.json.

    Raises:
        DataError: one of them is missing or is not what evaluate writes.
    """
    try:
        _, rows = read_csv(folder / "metrics.csv")
        summary: dict[str, Any] = {**files.read_json(folder / "summary.json", Summary, ("regions",))}
    except FileNotFoundError as error:
        raise DataError(f"{folder}: not an evaluation folder: {Path(error.filename).name} is missing") from error
    except ValueError as error:
        raise DataError(str(error)) from error
    if not rows or not {"case_id", "region", "dice"} <= rows[0].keys():
        found = ", ".join(rows[0]) if rows else "no rows"
        raise DataError(
            f"{folder / 'metrics.csv'}: must hold whole rows with case_id, region and dice. Received: {found}"
        )
    _check_cases(folder / "metrics.csv", rows, summary)
    try:
        for row in rows:
            row.setdefault("note", _note(row))
        evaluation = Evaluation(folder, rows, summary)
        of_rows = _figures_of_rows(evaluation)
    except (ValueError, KeyError) as error:
        raise DataError(f"{folder / 'metrics.csv'}: a score must be a number, or empty: {error}") from error
    if "false_positives" not in summary:  # of before cases without a region stood apart
        summary["regions"] = of_rows["regions"]
    summary["false_positives"] = of_rows["false_positives"]
    return evaluation


def _check_cases(path: Path, rows: list[dict[str, str]], summary: dict[str, Any]) -> None:
    """Refuse rows that are there twice, and fewer cases than summary.json counts."""
    keys = [(row["case_id"], row["region"]) for row in rows]
    if len(set(keys)) < len(keys):
        case_id, region = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{path}: a case must have one row a region. Received: two of {case_id}, {region}")
    if (found := len({case_id for case_id, _ in keys})) < summary.get("cases", 0):
        raise DataError(f"{path}: must hold the {summary['cases']} cases of summary.json. Received: {found}")


def _figures_of_rows(evaluation: Evaluation) -> dict[str, Any]:
    """Return what `figures_of_regions` says of the rows of metrics.csv, for the scores that apply to a region."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for region in evaluation.regions:
        names = {"reference_ml", "prediction_ml", "lesions_invented", *evaluation.figures_of(region)}
        rows[region] = {
            row["case_id"]: {name: known(row[name], math.nan) for name in row if name in names and _applies(name, row)}
            for row in evaluation.of_region(region)
        }
    patients = evaluation.summary.get("patients", {})
    return figures_of_regions(rows, {c: patients.get(c, c) for of_region in rows.values() for c in of_region})


def _applies(score: str, row: dict[str, str]) -> bool:
    return score != "lesions_invented" or bool(row[score])


def _note(row: dict[str, str]) -> str:
    """Say what is empty: the reason of all that is undefined."""
    empty = [side for side in ("reference", "prediction") if number(row.get(f"{side}_ml")) == 0]
    return f"no {row['region']} in {'either' if len(empty) == 2 else empty[0]}" if empty else ""
