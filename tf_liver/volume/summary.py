"""The scores of many cases in a few numbers, with an interval over patients, and the LiTS challenge's figures."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_liver.volume import scores
from tf_liver.volume.scores import Counts
from tf_liver.volume.scoring import CaseResult

RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
INTERVAL_PERCENT = (2.5, 97.5)


def summarise(results: Sequence[CaseResult], unsegmented: Mapping[str, str]) -> dict[str, Any]:
    """Return what summary.json holds about scored cases.

    unsegmented: case_id → why it has no label map; listed under "failed" with those that could not be scored.

    regions: region → score → mean, sd, median, q1, q3 of the cases, low and high of the mean, undefined.
    pooled: scores of all voxels of all cases together. lits: see `_lits`.
    """
    done = [result for result in results if result.rows]
    regions = list(done[0].rows) if done else []
    patients = [result.case.patient for result in done]
    return {
        "cases": len(done),
        "failed": {**unsegmented, **{result.case.case_id: result.error for result in results if result.error}},
        "patients": {result.case.case_id: result.case.patient for result in done},
        "interval": f"95 % of the mean, bootstrap over {len(set(patients))} patients",
        "regions": {name: _region([result.rows[name].scores for result in done], patients) for name in regions},
        "pooled": {name: _pooled([result.counts[name] for result in done]) for name in regions},
        "empty_reference": {name: _count_empty(done, name, "reference") for name in regions},
        "empty_prediction": {name: _count_empty(done, name, "prediction") for name in regions},
        "lits": _lits(done, regions),
    }


def _region(rows: Sequence[Mapping[str, float]], patients: Sequence[str]) -> dict[str, Any]:
    weights = resample_patients(patients)
    return {name: describe(np.array([row[name] for row in rows], np.float64), weights) for name in rows[0]}


def describe(values: np.ndarray, weights: np.ndarray) -> dict[str, float | int | None]:
    """Return mean, SD (n − 1), median, quartiles, the mean's 95 % bootstrap interval, and how many are undefined.

    values: (cases,), NaN where undefined; those are left out of all figures, and counted. weights: see
    `resample_patients`. What cannot be said is None: the SD of one case, the interval of one patient.
    """
    there = ~np.isnan(values)
    defined = values[there]
    described: dict[str, float | int | None] = dict.fromkeys(("mean", "sd", "median", "q1", "q3", "low", "high"))
    if len(defined):
        q1, median, q3 = np.percentile(defined, [25, 50, 75]).tolist()
        described |= {"mean": float(defined.mean()), "median": median, "q1": q1, "q3": q3}
    if len(defined) > 1:
        described["sd"] = float(defined.std(ddof=1))
    # Without resamples that hold no defined value at all.
    drawn = weights[:, there].sum(axis=1)
    means = (weights[:, there] @ defined)[drawn > 0] / drawn[drawn > 0]
    if len(means):
        described["low"], described["high"] = np.percentile(means, INTERVAL_PERCENT).tolist()
    return described | {"undefined": int((~there).sum())}


def resample_patients(patients: Sequence[str]) -> np.ndarray:
    """Return how often each case is drawn when patients, with all their cases, are drawn with replacement.

    (RESAMPLES, cases) int64, always the same for the same patients; no resamples for fewer than two patients, of
    whose spread nothing is known. Cases of one patient are alike, so drawing cases would make the interval too narrow
    (cluster bootstrap: Davison and Hinkley 1997, 3.8).
    """
    names = sorted(set(patients))
    if len(names) < 2:
        return np.zeros((0, len(patients)), np.int64)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return drawn[:, [names.index(patient) for patient in patients]]


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
