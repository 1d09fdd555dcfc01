"""Scores of a cross-validation: every case held out once, for every seed, and what the seeds make of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_liver import files
from tf_liver.cells import to_csv
from tf_liver.data.cases import Case
from tf_liver.volume import intervals
from tf_liver.volume.report import write_report
from tf_liver.volume.results import write_results
from tf_liver.volume.scores import RegionScores
from tf_liver.volume.scoring import score_label_maps
from tf_liver.volume.summary import CONVENTIONS, figures_of_regions, holds_region, summarise
from tf_liver.volume.tables import COLUMNS, aligned, cells_of, over_cases

CHOSEN_BY = {
    "last": "nothing: the weights after the last epoch",
    "best": "the Dice of the held-out slices, so these scores lean to the good side",
}
Rows = Sequence[RegionScores]


def score_seed(
    cases: Sequence[Case],
    label_maps: Mapping[str, Path],
    folder: Path,
    facts: dict[str, Any],
    workers: int,
    tumours: bool,
) -> Rows:
    """Score the label maps of all folds together, as one evaluation folder with a report; return its rows.

    label_maps: case_id → file; cases without one are named as failed. tumours: whether the runs look for them.
    """
    for case_id, path in label_maps.items():
        files.write_atomic(folder / "predictions" / f"{case_id}.nii.gz", path.read_bytes(), sync=False)
    there = [case for case in cases if case.case_id in label_maps]
    missing = {case.case_id: "no label map" for case in cases if case.case_id not in label_maps}
    results = score_label_maps(there, folder / "predictions", "whole", workers, tumours=tumours)
    write_results(folder, results, {**facts, "liver": "whole", **summarise(results, missing)})
    write_report(folder, cases, None)
    return [row for result in results for row in result.rows.values()]


def over_seeds(rows: Mapping[int, Rows]) -> list[RegionScores]:
    """Return a row a case and region with the means over the seeds that have it; NaN where one of them is."""
    keys = dict.fromkeys((row.case_id, row.region) for of_seed in rows.values() for row in of_seed)
    found = []
    for key in keys:
        alike = [row for of_seed in rows.values() for row in of_seed if (row.case_id, row.region) == key]
        names = set.intersection(*(set(row.scores) for row in alike))
        means: dict[str, Any] = {name: float(np.mean([row.scores[name] for row in alike])) for name in names}
        found.append(dataclasses.replace(alike[0], **means))
    return found


def summarise_seeds(rows: Mapping[int, Rows], patients: Mapping[str, str]) -> dict[str, Any]:
    """Return what summary.json says of a cross-validation.

    rows: seed → its rows. patients: case_id → patient.

    regions, false_positives: see `figures_of_regions`, of each case's mean over the seeds.
    seeds: region → score → mean of each seed over the cases that all seeds have and whose reference holds the region,
    and the SD (n − 1) of those means.
    """
    merged = over_seeds(rows)
    cases = list(dict.fromkeys(row.case_id for row in merged))
    regions = list(dict.fromkeys(row.region for row in merged))
    scores = {region: {row.case_id: row.scores for row in merged if row.region == region} for region in regions}
    return {
        "cases": len(cases),
        "patients": {case_id: patients[case_id] for case_id in cases},
        "interval": f"{intervals.METHOD}; of each case's mean over {len(rows)} seeds",
        "conventions": {"regions": CONVENTIONS["regions"]},
        **figures_of_regions(scores, patients),
        "seeds": {region: _spread(rows, region) for region in regions},
    }


def _spread(rows: Mapping[int, Rows], region: str) -> dict[str, Any]:
    """Return each seed's mean of every score, and how far the seeds are apart."""
    by_seed = {
        seed: {row.case_id: s for row in of_seed if row.region == region and holds_region(s := row.scores)}
        for seed, of_seed in rows.items()
    }
    common = set.intersection(*(set(of_seed) for of_seed in by_seed.values()))
    names = list(next(iter(next(iter(by_seed.values())).values()), {}))
    spread = {}
    for name in names:
        values = {seed: [of_seed[c][name] for c in sorted(common)] for seed, of_seed in by_seed.items()}
        means = {str(seed): known(float(np.mean(v))) if v else None for seed, v in values.items()}
        there = [mean for mean in means.values() if mean is not None]
        whole = len(there) == len(means) > 1
        spread[name] = {"means": means, "sd": float(np.std(there, ddof=1)) if whole else None}
    return spread


def known(value: float) -> float | None:
    """Return a number, or None for NaN, which JSON has not."""
    return None if np.isnan(value) else value


def folds_csv(rows: Mapping[tuple[int, int], Rows]) -> str:
    """Return all rows as CSV, with columns seed and fold before those of metrics.csv."""
    return to_csv(
        ["seed", "fold", *COLUMNS],
        ({"seed": seed, "fold": fold, **cells_of(row)} for (seed, fold), some in rows.items() for row in some),
    )


def table(rows: Mapping[tuple[int, int], Rows], minutes: Mapping[tuple[int, int], float]) -> str:
    """Return a line a run and region for a terminal: means over the cases that it holds out and that hold the region.

    false ml: what it claims in the others.
    """
    lines = [["run", "region", "cases", "Dice", "IoU", "NSD 2 mm", "HD95 mm", "false ml", "minutes"]]
    for (seed, fold), some in rows.items():
        for region in dict.fromkeys(row.region for row in some):
            of_region = [row.scores for row in some if row.region == region]
            here = [scores for scores in of_region if holds_region(scores)]
            names = ("dice", "iou", "nsd_2mm", "hd95_mm") if here else ()
            means = [float(np.mean([scores[name] for scores in here])) for name in names] or [np.nan] * 4
            shown = ["–" if np.isnan(mean) else f"{mean:.4f}" for mean in means]
            free = [scores["prediction_ml"] for scores in of_region if not holds_region(scores)]
            shown.append(f"{sum(free):.1f}" if free else "–")
            run = f"fold {fold}, seed {seed}"
            lines.append([run, region, str(len(here)), *shown, f"{minutes[seed, fold]:.1f}"])
    return aligned(lines)


def in_words(summary: Mapping[str, Any]) -> str:
    """Return a line a region with what a reader looks for first."""
    lines = []
    for region, scores in summary["regions"].items():
        dice, spread = scores["dice"], summary["seeds"][region].get("dice", {"sd": None})
        text = f"{region}: mean Dice {_shown(dice['mean'])} over {over_cases(region, summary)}"
        if dice["sd"] is not None:
            text += f"; SD {dice['sd']:.4f}"
        text += f"; {intervals.in_words(dice)}"
        if spread["sd"] is not None:
            means = ", ".join(f"{seed}: {mean:.4f}" for seed, mean in spread["means"].items())
            text += f"; SD from seed to seed {spread['sd']:.4f} ({means})"
        lines.append(text)
    for name, runs in summary["also"].items():
        for region in dict.fromkeys(region for scores in runs.values() for region in scores):
            dice = {run: mean for run, of in runs.items() if (mean := of.get(region, {}).get("dice")) is not None}
            together = dice.pop("together", None)
            text = f"{name}, {region}: "
            text += f"mean Dice {np.mean(list(dice.values())):.4f} over {len(dice)} runs" if dice else "no run scored"
            text += f" ({min(dice.values()):.4f} to {max(dice.values()):.4f})" if len(dice) > 1 else ""
            lines.append(text + (f", all together {together:.4f}" if together is not None else ""))
    return "\n".join(lines)


def _shown(mean: float | None) -> str:
    return "–" if mean is None else f"{mean:.4f}"
