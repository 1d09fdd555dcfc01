"""Two evaluations of the same cases: is one better, patient by patient?"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tf_liver import files
from tf_liver.cells import read_csv
from tf_liver.records import Summary
from tf_liver.volume.intervals import METHOD, interval_of, limits_of, patient_means
from tf_liver.volume.scores import TUMOUR_SCORES
from tf_liver.volume.summary import holds_region
from tf_liver.volume.tables import aligned
from tf_liver.volume.words import known, number

SIGNIFICANCE = 0.05
# Of n differences all to one side, the exact two-sided p is 2 / 2ⁿ: with fewer pairs none can be significant.
MIN_PAIRS = 1 + math.floor(math.log2(2 / SIGNIFICANCE))
# These tell that both were scored against the same references, or are compared by another name.
_REFERENCE = ("reference_ml", "burden_reference", "false_positive_ml")

# (case_id, region) → score → value, NaN where the cell is empty.
Metrics = dict[tuple[str, str], dict[str, float]]


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Compare two evaluation folders, score by score, in the regions that both have.

    A patient's scores are averaged first. Patients of whom either side is undefined are left out and counted. The mean
    difference (second − first) has its 95 % interval (see intervals.py). p: the paired Wilcoxon signed-rank test,
    two-sided, exact for up to 50 pairs without ties; differences of exactly 0 are left out of it (Wilcoxon 1945).
    p_holm is p corrected for all scores that are tested (Holm 1979). A region is compared in the cases whose reference
    holds it; "<region>, false positives" are claims in the others.

    Raises:
        ValueError: a folder without metrics.csv, other cases, no common region, or other references.
    """
    a, b = _read_metrics(first), _read_metrics(second)
    both = [region for region in _regions(a) if region in _regions(b)]
    if not both:
        raise ValueError(
            f"both evaluations must hold one region. Received: {', '.join(_regions(a))} and {', '.join(_regions(b))}"
        )
    left_out = {region for region in (*_regions(a), *_regions(b)) if region not in both}
    a, b = ({key: row for key, row in metrics.items() if key[1] in both} for metrics in (a, b))
    _check_same_cases(first, a, second, b)
    patients = _patients(first) | _patients(second)
    regions: dict[str, dict[str, Any]] = {}
    for region in both:
        regions |= _tests_of_region(region, a, b, patients)
    _correct([test for tests in regions.values() for test in tests.values()])
    return {
        "first": str(first),
        "second": str(second),
        "cases": len({case for case, _ in a}),
        "interval": METHOD,
        "correction": "p_holm: Holm 1979, over all scores with a p",
        "left_out_regions": sorted(left_out),
        "regions": regions,
    }


def _tests_of_region(region: str, a: Metrics, b: Metrics, patients: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the tests of a region in the cases that hold it, and of the claims in the others, where there are any."""
    keys = [key for key in a if key[1] == region]
    holding = [key for key in keys if holds_region(a[key])]
    left_out = _REFERENCE if region == "tumour" else (*_REFERENCE, *TUMOUR_SCORES)
    names = [name for name in a[keys[0]] if name in b[keys[0]] and name not in left_out]
    found = {region: _tests(names, holding, a, b, patients)} if holding else {}
    if len(holding) < len(keys):
        claims = [name for name in ("prediction_ml", "lesions_invented") if name in names]
        free = [key for key in keys if key not in holding]
        found[f"{region}, false positives"] = _tests(claims, free, a, b, patients)
    return found


def _tests(
    names: Sequence[str], keys: Sequence[tuple[str, str]], a: Metrics, b: Metrics, patients: Mapping[str, str]
) -> dict[str, Any]:
    who = [patients.get(case_id, case_id) for case_id, _ in keys]
    return {
        name: _test(np.array([a[k][name] for k in keys]), np.array([b[k][name] for k in keys]), who, limits_of(name))
        for name in names
    }


def _test(a: np.ndarray, b: np.ndarray, patients: list[str], limits: tuple[float, float]) -> dict[str, Any]:
    """Return means, differences (second − first), their interval, pairs and p of one score, (cases,) each."""
    a, b = (patient_means(values, patients) for values in (a, b))
    there = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[there], b[there]
    changed = int(np.count_nonzero(a != b))
    low, high = limits
    return {
        "undefined": int((~there).sum()),
        "first_mean": float(a.mean()) if len(a) else None,
        "second_mean": float(b.mean()) if len(b) else None,
        "mean_difference": float((b - a).mean()) if len(a) else None,
        **interval_of(b - a, (low - high, high - low)),
        "median_difference": float(np.median(b - a)) if len(a) else None,
        "pairs": changed,
        "p": float(stats.wilcoxon(b, a).pvalue) if changed else None,
        "enough_pairs": changed >= MIN_PAIRS,
    }


def _correct(tests: Sequence[dict[str, Any]]) -> None:
    """Add p_holm to tests: the smallest p times their number, the next one times one less, never falling, at most 1."""
    tested = sorted((test for test in tests if test["p"] is not None), key=lambda test: test["p"])
    largest = 0.0
    for place, test in enumerate(tested):
        largest = max(largest, min(1.0, test["p"] * (len(tested) - place)))
        test["p_holm"] = largest
    for test in tests:
        test.setdefault("p_holm", None)


def table(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as text for a terminal, and what its p-values can say."""
    head = ("first", "second", "difference", "95 % from", "to", "patients", "pairs", "undefined", "p", "p Holm")
    lines = [["region", "score", *head]]
    few = tested = 0
    for region, tests in comparison["regions"].items():
        for name, test in tests.items():
            numbers = [test[key] for key in ("first_mean", "second_mean", "mean_difference", "low", "high")]
            counts = [str(test[key]) for key in ("patients", "pairs", "undefined")]
            p = ["equal", ""] if test["p"] is None else [f"{test[key]:.4f}" for key in ("p", "p_holm")]
            lines.append([region, name, *("–" if n is None else f"{n:.4f}" for n in numbers), *counts, *p])
            few += not test["enough_pairs"]
            tested += test["p"] is not None
    text = aligned(lines)
    text += f"\ndifference: mean over patients, second − first; {comparison['interval']}"
    text += (
        f"\np: Wilcoxon signed-rank test over patients, two-sided; p Holm: corrected for {tested} scores (Holm 1979)"
    )
    if comparison["left_out_regions"]:
        text += f"\nnot compared, for one side alone has it: {', '.join(comparison['left_out_regions'])}"
    if few:
        text += (
            f"\n{few} of {len(lines) - 1} scores differ in fewer than {MIN_PAIRS} patients: "
            f"too few pairs for any p below {SIGNIFICANCE}"
        )
    return text


def _regions(metrics: Metrics) -> list[str]:
    return list(dict.fromkeys(region for _, region in metrics))


def _read_metrics(folder: Path) -> Metrics:
    path = folder / "metrics.csv"
    if not path.is_file():
        raise ValueError(f"{folder}: no evaluation: metrics.csv is missing")
    columns, rows = read_csv(path)
    if not {"case_id", "region"} <= set(columns):
        raise ValueError(f"{path}: must have columns case_id and region; evaluate again with this version")
    if "reference_ml" not in columns:
        raise ValueError(f"{path}: must have a column reference_ml. Received: {', '.join(columns)}")
    metrics: Metrics = {}
    for row in rows:
        key = row.pop("case_id"), row.pop("region")
        if key in metrics:
            raise ValueError(f"{path}: case {key[0]}: must have one row a region. Received: two of {key[1]}")
        if bad := [f"{name} {cell!r}" for name, cell in row.items() if cell and number(cell) is None]:
            raise ValueError(f"{path}: case {key[0]}: scores must be numbers. Received: {bad[0]}")
        metrics[key] = {name: known(cell, math.nan) for name, cell in row.items()}
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
    return files.read_json(path, Summary).get("patients", {}) if path.is_file() else {}
