"""Evaluation folders, made as evaluate makes them, of references that were damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tf_liver.data.cases import find_cases
from tf_liver.data.nifti import read_label
from tf_liver.data.write import write_label_map
from tf_liver.volume.results import write_results
from tf_liver.volume.scoring import score_label_maps
from tf_liver.volume.summary import summarise

LOG = "epoch,dice,loss,val_dice,val_loss\n0,0.5,0.9,0.0,4000\n1,0.7,0.5,0.8,0.6\n2,0.8,0.3,0.75,0.5\n"


def shifted(number: int, labels: np.ndarray) -> np.ndarray:
    """Damage that grows with the number of the case; the fourth has no prediction at all."""
    return np.roll(labels, 2 * number, 0) if number != 3 else np.zeros_like(labels)


def write_evaluation(
    folder: Path, data: Path, damage: Callable[[int, np.ndarray], np.ndarray] = shifted, workers: int = 2
) -> Path:
    """Write an evaluation folder of all cases of a data folder and return it."""
    cases = find_cases(data)
    for number, case in enumerate(cases):
        reference = read_label(case.label)
        predicted = damage(number, reference.voxels.copy())
        write_label_map(folder / "predictions" / f"{case.case_id}.nii.gz", predicted, reference.header)
    results = score_label_maps(cases, folder / "predictions", "whole", workers)
    facts = {"run": "runs/tiny-1", "checkpoint": "best", "data": str(data), "liver": "whole"}
    write_results(folder, results, {**facts, **summarise(results, {})})
    return folder
