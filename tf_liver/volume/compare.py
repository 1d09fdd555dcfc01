"""Two evaluations of the same cases: is one better, patient by patient?"""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tf_liver.volume.scores import TUMOUR_SCORES
from tf_liver.volume.tables import aligned

SIGNIFICANCE = 0.05
# Of n differences all to one side, the exact two-sided p is 2 / 2ⁿ: with fewer pairs none can be significant.
MIN_PAIRS = 1 + math.floor(math.log2(2 / SIGNIFICANCE))
# These tell that both were scored against the same references, and are not compared.
_REFERENCE = ("reference_ml", "burden_reference")

# (case_id, region) → score → value, NaN where the cell is empty.
Metrics = dict[tuple[str, str], dict[str, float]]


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Compare two evaluation folders, score by score, with the paired Wilcoxon signed-rank test over patients.

    A patient's scores are averaged first. Patients of whom either side is undefined are left out and counted;
    differences of exactly 0 are left out of the test (Wilcoxon 1945). p-values are two-sided, exact for up to 50
    pairs without ties, and not corrected for the number of scores.

    Raises:
        ValueError: a folder without metrics.csv, other cases or regions, or other references.
    """
    a, b = _read_metrics(first), _read_metrics(second)
    _check_same_cases(first, a, second, b)
    patients = _patients(first) | _patients(second)
    regions: dict[str, dict[str, Any]] = {}
    for region in dict.fromkeys(region for _, region in a):
        keys = [key for key in a if key[1] == region]
        who = [patients.get(case_id, case_id) for case_id, _ in keys]
        left_out = _REFERENCE if region == "tumour" else (*_REFERENCE, *TUMOUR_SCORES)
        names = [name for name in a[keys[0]] if name in b[keys[0]] and name not in left_out]
        regions[region] = {
            name: _test(np.array([a[k][name] for k in keys]), np.array([b[k][name] for k in keys]), who)
            for name in names
        }
    return {"first": str(first), "second": str(second), "cases": len({case for case, _ in a}), "regions": regions}


def _test(a: np.ndarray, b: np.ndarray, patients: list[str]) -> dict[str, Any]:
    """Return means, median difference (second − first), pairs and p of one score, (cases,) each."""
    groups = [np.array([p == name for p in patients]) for name in dict.fromkeys(patients)]
    a, b = (np.array([values[group].mean() for group in groups]) for values in (a, b))
    there = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[there], b[there]
    changed = int(np.count_nonzero(a != b))
    return {
        "patients": len(a),
        "undefined": int((~there).sum()),
        "first_mean": float(a.mean()) if len(a) else None,
        "second_mean": float(b.mean()) if len(b) else None,
        "median_difference": float(np.median(b - a)) if len(a) else None,
        "pairs": changed,
        "p": float(stats.wilcoxon(b, a).pvalue) if changed else None,
        "enough_pairs": changed >= MIN_PAIRS,
    }


def table(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as text for a terminal, and what its p-values can say."""
    lines = [["region", "score", "first", "second", "median difference", "pairs", "undefined", "p"]]
    few = 0
    for region, tests in comparison["regions"].items():
        for name, test in tests.items():
            numbers = [test[key] for key in ("first_mean", "second_mean", "median_difference")]
            cells = ["–" if number is None else f"{number:.4f}" for number in numbers]
            p = "equal" if test["p"] is None else f"{test['p']:.4f}"
            lines.append([region, name, *cells, str(test["pairs"]), str(test["undefined"]), p])
            few += not test["enough_pairs"]
    text = aligned(lines) + "\nWilcoxon signed-rank test over patients, two-sided, not corrected for many scores"
    if few:
        text += (
            f"\n{few} of {len(lines) - 1} scores differ in fewer than {MIN_PAIRS} patients: "
            f"too few pairs for any p below {SIGNIFICANCE}"
        )
    return text


def _read_metrics(folder: Path) -> Metrics:
    path = folder / "metrics.csv"
    if not path.is_file():
        raise ValueError(f"{folder}: no evaluation: metrics.csv is missing")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if not {"case_id", "region"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: must have columns case_id and region; evaluate again with this version")
        metrics: Metrics = {}
        for row in reader:
            key = row.pop("case_id"), row.pop("region")
            try:
                metrics[key] = {name: float(cell) if cell else math.nan for name, cell in row.items()}
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: case {key[0]}: scores must be numbers: {error}") from error
    if not metrics:
        raise ValueError(f"{path}: holds no case")
    return metrics


def _check_same_cases(first: Path, a: Metrics, second: Path, b: Metrics) -> None:
    for here, there, missing in ((first, second, a.keys() - b.keys()), (second, first, b.keys() - a.keys())):
        if missing:
            names = ", ".join(f"{case_id} ({region})" for case_id, region in sorted(missing))
            raise ValueError(f"both evaluations must hold the same cases. Only in {here}, not in {there}: {names}")
    for key, row in a.items():
        if not math.isclose(row["reference_ml"], b[key]["reference_ml"], rel_tol=1e-9):
            raise ValueError(
                f"case {key[0]}, {key[1]}: both must be scored against the same reference (and the same --liver). "
                f"Received: {row['reference_ml']:g} and {b[key]['reference_ml']:g} ml"
            )


def _patients(folder: Path) -> dict[str, str]:
    """Return case_id → patient as the evaluation knows them; without them every case is a patient."""
    path = folder / "summary.json"
    try:
        return dict(json.loads(path.read_text()).get("patients", {})) if path.is_file() else {}
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{path}: not a summary: {error}") from error
