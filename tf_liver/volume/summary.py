"""The scores of many cases in a few numbers, with an interval over patients, and what challenges make of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_liver.volume import scores
from tf_liver.volume.intervals import METHOD, interval_of, limits_of, patient_means
from tf_liver.volume.scores import Counts
from tf_liver.volume.scoring import CaseResult

CONVENTIONS = {
    "regions": "over the cases whose reference holds the region; claims in the others are under false_positives",
    "lits": "LiTS: dice_per_case is over all cases, and is 1 where both masks are empty, 0 where one is",
    "msd": "Decathlon, by surface-distance: over all cases in which either mask holds the region; 0 where one is empty",
}
Scores = Mapping[str, float]


def summarise(results: Sequence[CaseResult], unsegmented: Mapping[str, str]) -> dict[str, Any]:
    """Return what summary.json holds about scored cases.

    unsegmented: case_id → why it has no label map; listed under "failed" with those that could not be scored.

    regions: see `figures_of_regions`; false_positives beside it. pooled: scores of all voxels of all cases together.
    lits, msd: what the challenges make of the same cases; conventions says how they differ.
    """
    done = [result for result in results if result.rows]
    regions = list(done[0].rows) if done else []
    rows = {name: {result.case.case_id: result.rows[name].scores for result in done} for name in regions}
    patients = {result.case.case_id: result.case.patient for result in done}
    return {
        "cases": len(done),
        "failed": {**unsegmented, **{result.case.case_id: result.error for result in results if result.error}},
        "patients": patients,
        "placeholder_spacing": {result.case.case_id: result.placeholder for result in done if result.placeholder},
        "interval": METHOD,
        "conventions": CONVENTIONS,
        **figures_of_regions(rows, patients),
        "pooled": {name: _pooled([result.counts[name] for result in done]) for name in regions},
        "empty_reference": {name: _count_empty(done, name, "reference") for name in regions},
        "empty_prediction": {name: _count_empty(done, name, "prediction") for name in regions},
        "lits": _lits(done, regions),
        "msd": {name: _msd(list(of_region.values())) for name, of_region in rows.items()},
    }


def figures_of_regions(rows: Mapping[str, Mapping[str, Scores]], patients: Mapping[str, str]) -> dict[str, Any]:
    """Return what summary.json says of each region.

    rows: region → case_id → scores. patients: case_id → patient.

    cases_with_region: how many cases' references hold it. regions: region → score → see `describe`, over those.
    false_positives: region → over the others: cases, with_prediction (how many claim it), lesions (tumours only) and ml
    claimed in all of them.
    """
    held = {
        region: {case_id: row for case_id, row in of_region.items() if holds_region(row)}
        for region, of_region in rows.items()
    }
    return {
        "cases_with_region": {region: len(of_region) for region, of_region in held.items()},
        "regions": {region: _figures(of_region, held[region], patients) for region, of_region in rows.items()},
        "false_positives": {region: _false_positives(list(some.values())) for region, some in rows.items()},
    }


def _figures(rows: Mapping[str, Scores], held: Mapping[str, Scores], patients: Mapping[str, str]) -> dict[str, Any]:
    names = [name for name in next(iter(rows.values())) if all(name in row for row in rows.values())]
    who = [patients[case_id] for case_id in held]
    return {
        name: describe(np.array([row[name] for row in held.values()], np.float64), who, limits_of(name))
        for name in names
    }


def holds_region(row: Mapping[str, Any]) -> bool:
    """Return whether the reference of a case holds the region of a row of scores."""
    return bool(row.get("reference_ml", math.nan) != 0)


def _false_positives(rows: Sequence[Scores]) -> dict[str, float | int]:
    free = [row for row in rows if not holds_region(row)]
    found: dict[str, float | int] = {
        "cases": len(free),
        "with_prediction": sum(row["prediction_ml"] > 0 for row in free),
        "ml": float(sum(row["prediction_ml"] for row in free)),
    }
    if any("lesions_invented" in row for row in rows):
        found["lesions"] = sum(row["lesions_invented"] for row in free)
    return found


def describe(values: np.ndarray, patients: Sequence[str], limits: tuple[float, float]) -> dict[str, Any]:
    """Return mean, SD (n − 1), median, quartiles, the mean's 95 % interval (intervals.py), and how many are undefined.

    values: (cases,), NaN where undefined; those are left out of all figures, and counted. patients: of each case.
    limits: of the values. What cannot be said is None: the SD of one case, the interval of two patients.
    """
    there = ~np.isnan(values)
    defined = values[there]
    described: dict[str, Any] = dict.fromkeys(("mean", "sd", "median", "q1", "q3"))
    if len(defined):
        q1, median, q3 = np.percentile(defined, [25, 50, 75]).tolist()
        described |= {"mean": float(defined.mean()), "median": median, "q1": q1, "q3": q3}
    if len(defined) > 1:
        described["sd"] = float(defined.std(ddof=1))
    who = [patient for patient, known in zip(patients, there, strict=True) if known]
    interval = interval_of(patient_means(defined, who), limits)
    return described | interval | {"undefined": int((~there).sum())}


def _pooled(counts: Iterable[Counts]) -> dict[str, float]:
    total = sum(counts, Counts(0, 0, 0, 0))
    return {
        "dice": scores.dice(total),
        "iou": scores.iou(total),
        "pixel_accuracy": scores.pixel_accuracy(total),
        "mean_iou": scores.mean_iou(total),
    }


def _count_empty(done: Sequence[CaseResult], region: str, side: str) -> int:
    return sum(not getattr(result.counts[region], side) for result in done)


def _lits(done: Sequence[CaseResult], regions: Sequence[str]) -> dict[str, Any]:
    """Return the figures of the LiTS challenge (Bilic 2023, Medical Image Analysis 84, 102680).

    Means leave undefined values out, where the challenge counts 9001 mm; the regions' "undefined" tells how many.
    """
    names = ("voe", "rvd", "assd_mm", "rmsd_mm", "msd_mm")
    figures: dict[str, Any] = {}
    for region in regions:
        rows = [result.rows[region].scores for result in done]
        figures[region] = {
            "dice_per_case": _mean(row["dice"] for row in rows),
            "dice_global": _pooled(result.counts[region] for result in done)["dice"],
            **{name: _mean(row[name] for row in rows) for name in names},
        }
    if "tumour" in regions:
        figures["lesions"] = _lesions(done)
        figures["tumour_burden"] = _burden(done)
    return figures


def _msd(rows: Sequence[Scores]) -> dict[str, Any]:
    """Return the Decathlon's two scores (Antonelli 2022), a case without the region in either mask undefined."""
    there = [row for row in rows if row["reference_ml"] or row["prediction_ml"]]
    means = {name: _mean(row[name] for row in there) for name in ("dice", "nsd_7mm")}
    return means | {"undefined": len(rows) - len(there)}


def _lesions(done: Sequence[CaseResult]) -> dict[str, Any]:
    """Return lesion detection at an IoU above 0.5 over all cases, and the mean scores of the lesions found."""
    lesions = [result.lesions for result in done if result.lesions]
    found, missed, invented = (sum(getattr(x, kind) for x in lesions) for kind in ("found", "missed", "invented"))
    of_found = [pair for x in lesions for pair in x.of_found]
    return {
        "found": found,
        "missed": missed,
        "invented": invented,
        "precision": found / (found + invented) if found + invented else None,
        "recall": found / (found + missed) if found + missed else None,
        **({name: _mean(pair[name] for pair in of_found) for name in of_found[0]} if of_found else {}),
    }


def _burden(done: Sequence[CaseResult]) -> dict[str, float | int | None]:
    """Return root mean square and largest error of the tumours' share of the liver."""
    rows = [result.rows["tumour"].scores for result in done]
    errors = np.array([row["burden_prediction"] - row["burden_reference"] for row in rows])
    defined = np.abs(errors[~np.isnan(errors)])
    return {
        "rmse": float(np.sqrt(np.mean(defined**2))) if len(defined) else None,
        "max": float(defined.max()) if len(defined) else None,
        "undefined": int(np.isnan(errors).sum()),
    }


def _mean(values: Iterable[float]) -> float | None:
    """Return the mean of the values that are defined, or None."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else None
