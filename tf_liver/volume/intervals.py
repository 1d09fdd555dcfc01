"""95 % intervals of a mean over few patients, chosen by the coverage that tests/volume/test_intervals.py simulates.

Of 3 to 5 patients a percentile bootstrap covers 73 to 83 %, and no method that sees the sample alone covers the mean
of scores that fail now and then: most samples of five hold none of the failures. A score with a range tells how far
such a patient could lie, so its interval is a Bayesian bootstrap (Rubin 1981, Annals of Statistics 9, 130) with a
quarter of an unseen patient at the end of the range: at the low end for the low bound, at the high end for the high
one. A whole unseen patient would give the bound of Gaffke (2005), which covers more than it says. A score without a
range has Student's interval, at 98 %, which covers 92 % and more of means of exponential values; rare failures that
nobody saw it does not cover.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats

MIN_PATIENTS = 3
UNSEEN = 0.25
STUDENT_LEVEL = 0.98
DRAWS = 10_000
PERCENT = (2.5, 97.5)
METHOD = (
    f"95 % of the mean over patients, from {MIN_PATIENTS} on, a patient's cases averaged first: of scores with a range "
    f"a Bayesian bootstrap with {UNSEEN:g} of an unseen patient at the range's end, of others Student's at "
    f"{100 * STUDENT_LEVEL:.0f} %"
)
_SHARES = ("dice", "iou", "precision", "recall", "pixel_accuracy", "mean_iou", "nsd_", "voe", "burden_")
_SIGNED = ("volume_difference_ml", "rvd", "volume_difference_percent")
NO_LIMITS = (-math.inf, math.inf)


def limits_of(score: str) -> tuple[float, float]:
    """Return the lowest and highest value that a score can have."""
    if score.startswith(_SHARES):
        return 0.0, 1.0
    return NO_LIMITS if score in _SIGNED else (0.0, math.inf)


def mean_interval(values: np.ndarray, limits: tuple[float, float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of (patients,) values; None below MIN_PATIENTS.

    limits: lowest and highest value that there can be; ±inf where there is no end.
    """
    if len(values) < MIN_PATIENTS:
        return None
    if np.isfinite(limits).all():
        weights = _weights(len(values))
        drawn = weights[:, :-1] @ np.sort(values)  # sorted: the order of the patients must not matter
        low, high = (np.percentile(drawn + weights[:, -1] * end, p) for p, end in zip(PERCENT, limits, strict=True))
        return float(low), float(high)
    half = stats.t.ppf((1 + STUDENT_LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    low, high = np.clip([values.mean() - half, values.mean() + half], *limits)
    return float(low), float(high)


@lru_cache(maxsize=8)
def _weights(patients: int) -> np.ndarray:
    """Return (DRAWS, patients + 1) shares of each patient, the unseen one last, always the same."""
    return np.random.default_rng(0).dirichlet([1.0] * patients + [UNSEEN], size=DRAWS)


def patient_means(values: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Return the mean of each patient's (cases,) values, in the order of the patients' first cases.

    Cases of one patient are alike: an interval over cases would be too narrow.
    """
    groups = [[n for n, p in enumerate(patients) if p == name] for name in dict.fromkeys(patients)]
    return np.array([values[group].mean() for group in groups])


def interval_of(values: np.ndarray, limits: tuple[float, float]) -> dict[str, Any]:
    """Return low, high and patients of (patients,) values; without an interval both are None, and "no_interval" why."""
    found = mean_interval(values, limits)
    low, high = found or (None, None)
    refused = {} if found else {"no_interval": f"{_patients(len(values))}, at least {MIN_PATIENTS} are needed"}
    return {"low": low, "high": high, "patients": len(values), **refused}


def in_words(figures: Mapping[str, Any]) -> str:
    """Return what `interval_of` found for a reader, with the number of patients."""
    if figures["low"] is None:
        return f"no interval: {figures.get('no_interval', 'too few patients')}"
    return f"95 % {figures['low']:.4f} to {figures['high']:.4f}, {_patients(figures['patients'])}"


def _patients(count: int) -> str:
    return f"{count} patient{'s' * (count != 1)}"
