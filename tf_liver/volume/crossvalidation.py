"""Scores of a cross-validation: every case held out once, for every seed, and what the seeds make of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_liver import files
from tf_liver.data.cases import Case
from tf_liver.volume.report import write_report
from tf_liver.volume.results import write_results
from tf_liver.volume.scores import RegionScores
from tf_liver.volume.scoring import score_label_maps
from tf_liver.volume.summary import describe, resample_patients, summarise
from tf_liver.volume.tables import aligned, metrics_csv

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

    regions: region → score → mean, SD, quartiles and 95 % interval over cases, of each case's mean over the seeds.
    seeds: region → score → mean of each seed over the cases that all seeds have, and the SD (n − 1) of those means.
    """
    merged = over_seeds(rows)
    cases = list(dict.fromkeys(row.case_id for row in merged))
    regions = list(dict.fromkeys(row.region for row in merged))
    return {
        "cases": len(cases),
        "patients": {case_id: patients[case_id] for case_id in cases},
        "interval": f"95 % of the mean, bootstrap over {len({patients[c] for c in cases})} patients, "
        f"of each case's mean over {len(rows)} seeds",
        "regions": {
            region: _described([row for row in merged if row.region == region], patients) for region in regions
        },
        "seeds": {region: _spread(rows, region) for region in regions},
    }


def _described(rows: Rows, patients: Mapping[str, str]) -> dict[str, Any]:
    weights = resample_patients([patients[row.case_id] for row in rows])
    names = [name for name in rows[0].scores if all(name in row.scores for row in rows)]
    return {name: describe(np.array([row.scores[name] for row in rows]), weights) for name in names}


def _spread(rows: Mapping[int, Rows], region: str) -> dict[str, Any]:
    """Return each seed's mean of every score, and how far the seeds are apart."""
    by_seed = {
        seed: {row.case_id: row.scores for row in of_seed if row.region == region} for seed, of_seed in rows.items()
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
    lines = ["seed,fold," + metrics_csv([]).strip()]
    for (seed, fold), some in rows.items():
        lines += [f"{seed},{fold},{line}" for line in metrics_csv(some).splitlines()[1:]]
    return "\n".join(lines) + "\n"


def table(rows: Mapping[tuple[int, int], Rows], minutes: Mapping[tuple[int, int], float]) -> str:
    """Return a line a run and region for a terminal: means over the cases that it holds out."""
    lines = [["run", "region", "cases", "Dice", "IoU", "NSD 2 mm", "HD95 mm", "minutes"]]
    for (seed, fold), some in rows.items():
        for region in dict.fromkeys(row.region for row in some):
            here = [row.scores for row in some if row.region == region]
            means = [np.mean([scores[name] for scores in here]) for name in ("dice", "iou", "nsd_2mm", "hd95_mm")]
            shown = ["–" if np.isnan(mean) else f"{mean:.4f}" for mean in means]
            run = f"fold {fold}, seed {seed}"
            lines.append([run, region, str(len(here)), *shown, f"{minutes[seed, fold]:.1f}"])
    return aligned(lines)


def in_words(summary: Mapping[str, Any]) -> str:
    """Return a line a region with what a reader looks for first."""
    lines = []
    for region, scores in summary["regions"].items():
        dice, spread = scores["dice"], summary["seeds"][region]["dice"]
        text = f"{region}: mean Dice {dice['mean']:.4f} over {summary['cases']} cases"
        if dice["sd"] is not None:
            text += f", SD {dice['sd']:.4f}"
        if dice["low"] is not None:
            text += f", 95 % {dice['low']:.4f} to {dice['high']:.4f}"
        if spread["sd"] is not None:
            means = ", ".join(f"{seed}: {mean:.4f}" for seed, mean in spread["means"].items())
            text += f"; SD from seed to seed {spread['sd']:.4f} ({means})"
        lines.append(text)
    for name, runs in summary["also"].items():
        for region in dict.fromkeys(region for scores in runs.values() for region in scores):
            dice = {run: scores[region]["dice"] for run, scores in runs.items() if region in scores}
            together = dice.pop("together", None)
            text = (
                f"{name}, {region}: mean Dice {np.mean(list(dice.values())):.4f} over {len(dice)} runs"
                if dice
                else name
            )
            text += f" ({min(dice.values()):.4f} to {max(dice.values()):.4f})" if len(dice) > 1 else ""
            lines.append(text + (f", all together {together:.4f}" if together is not None else ""))
    return "\n".join(lines)
