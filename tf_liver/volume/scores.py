"""How good a label map is: counts first, then small ratios. NumPy only.

Degenerate cases, by definition and not by accident:
both masks empty     nothing was there and nothing was claimed: Dice and IoU are 1
only one is empty    a missed or an invented liver: Dice and IoU are 0
Every score of every case is therefore a number, and no case ever drops out of a mean; `CaseScores.note` says
which cases were degenerate, and the summary counts them.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Counts:
    """Voxels by (reference, prediction): true and false, positive and negative."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    @property
    def reference(self) -> int:
        """Voxels of the reference mask."""
        return self.true_positive + self.false_negative

    @property
    def prediction(self) -> int:
        """Voxels of the predicted mask."""
        return self.true_positive + self.false_positive

    @property
    def total(self) -> int:
        """All voxels."""
        return self.reference + self.false_positive + self.true_negative


def count(reference: np.ndarray, prediction: np.ndarray) -> Counts:
    """Compare two boolean masks of one shape.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != prediction.shape:
        raise ValueError(
            f"reference and prediction must have one shape. Received: {reference.shape} and {prediction.shape}"
        )
    hits = int(np.count_nonzero(reference & prediction))
    positive, predicted = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    return Counts(hits, predicted - hits, positive - hits, reference.size - positive - predicted + hits)


def dice(counts: Counts) -> float:
    """2·|A∩B| / (|A| + |B|) (Dice 1945); 1 if both masks are empty."""
    both = counts.reference + counts.prediction
    return 2 * counts.true_positive / both if both else 1.0


def iou(counts: Counts) -> float:
    """|A∩B| / |A∪B| (Jaccard 1912); 1 if both masks are empty."""
    union = counts.reference + counts.false_positive
    return counts.true_positive / union if union else 1.0


def pixel_accuracy(counts: Counts) -> float:
    """Share of voxels whose class is right."""
    return (counts.true_positive + counts.true_negative) / counts.total


def mean_iou(counts: Counts) -> float:
    """Mean of the IoU of liver and of background."""
    background = counts.true_negative + counts.false_positive + counts.false_negative
    return (iou(counts) + (counts.true_negative / background if background else 1.0)) / 2


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case; a row of metrics.csv."""

    case_id: str
    dice: float
    iou: float
    pixel_accuracy: float
    mean_iou: float
    reference_ml: float
    prediction_ml: float
    note: str


def score_case(case_id: str, counts: Counts, voxel_ml: float) -> CaseScores:
    """Return the row of a case."""
    note = ""
    if not counts.reference or not counts.prediction:
        empty = [n for n, v in (("reference", counts.reference), ("prediction", counts.prediction)) if not v]
        note = f"no liver in {' or '.join(empty)}"
    return CaseScores(
        case_id=case_id,
        dice=dice(counts),
        iou=iou(counts),
        pixel_accuracy=pixel_accuracy(counts),
        mean_iou=mean_iou(counts),
        reference_ml=counts.reference * voxel_ml,
        prediction_ml=counts.prediction * voxel_ml,
        note=note,
    )
