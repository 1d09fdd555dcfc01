"""How good a mask is: counts and distances first, then small ratios. No TensorFlow.

Degenerate cases, by definition and not by accident:
both masks empty     nothing was there and nothing was claimed: overlap scores and NSD are 1, volumes differ by 0
only one is empty    a missed or an invented organ: overlap scores and NSD are 0
either is empty      there are no distances: HD95, ASSD, RMSD and MSD are NaN; and so is the volume difference in %
                     where nothing was there and something was claimed
A region's means are over the cases whose reference holds it, where a missed one counts 0; what is claimed in the others
is told beside them as false positives, for 1 in every case without a tumour would hide that none was found. NaN is an
empty cell in metrics.csv, and the summary counts it.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tf_liver.volume import surface

# 7 mm is the Decathlon's own tolerance for Task03_Liver, liver and tumour alike (Antonelli 2022, Nature Communications
# 13, 4128); 1 and 2 mm, about a voxel, tell good models apart.
NSD_TOLERANCES_MM = (1, 2, 7)


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


def precision(counts: Counts) -> float:
    """|A∩B| / |B|, B the prediction; 1 if both masks are empty, 0 if one is."""
    return counts.true_positive / counts.prediction if counts.prediction else float(not counts.reference)


def recall(counts: Counts) -> float:
    """|A∩B| / |A|, A the reference; 1 if both masks are empty, 0 if one is."""
    return counts.true_positive / counts.reference if counts.reference else float(not counts.prediction)


def relative_volume_difference(counts: Counts) -> float:
    """(|B| − |A|) / |A|, B the prediction: RVD of LiTS (Bilic 2023); 0 if both masks are empty, NaN if only A is.

    The challenge's published scorer has A and B the other way round.
    """
    if not counts.reference:
        return math.nan if counts.prediction else 0.0
    return (counts.prediction - counts.reference) / counts.reference


def pixel_accuracy(counts: Counts) -> float:
    """Share of voxels whose class is right."""
    return (counts.true_positive + counts.true_negative) / counts.total


def mean_iou(counts: Counts) -> float:
    """Mean of the IoU of the mask and of what is outside it."""
    background = counts.true_negative + counts.false_positive + counts.false_negative
    return (iou(counts) + (counts.true_negative / background if background else 1.0)) / 2


@dataclass(frozen=True)
class RegionScores:
    """The scores of one region of one case, a row of metrics.csv; NaN is undefined, None does not apply.

    precision, recall: of voxels. nsd_…: normalised surface Dice at that tolerance. msd_mm: maximum surface distance.
    voe, rvd: volume overlap error (1 − IoU) and relative volume difference, as LiTS has them.
    false_positive_ml: what is claimed where the reference lacks the region; it marks the cases that are left out of the
    region's means. lesions_…: see lesions.py; burden_…: tumour's share of the liver; both of region tumour only.
    """

    case_id: str
    region: str
    dice: float
    iou: float
    precision: float
    recall: float
    pixel_accuracy: float
    mean_iou: float
    reference_ml: float
    prediction_ml: float
    volume_difference_ml: float
    volume_difference_percent: float
    nsd_1mm: float
    nsd_2mm: float
    nsd_7mm: float
    hd95_mm: float
    assd_mm: float
    rmsd_mm: float
    msd_mm: float
    voe: float
    rvd: float
    false_positive_ml: float | None
    lesions_found: int | None = None
    lesions_missed: int | None = None
    lesions_invented: int | None = None
    burden_reference: float | None = None
    burden_prediction: float | None = None

    @property
    def scores(self) -> dict[str, float]:
        """The scores that apply, by name."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if isinstance(value, int | float)}


# Scores that only region "tumour" has.
TUMOUR_SCORES = tuple(f.name for f in dataclasses.fields(RegionScores) if f.default is None)


def score_region(
    case_id: str, region: str, reference: np.ndarray, prediction: np.ndarray, step_mm: np.ndarray, voxels: int
) -> tuple[RegionScores, Counts]:
    """Return the scores of a mask, and its voxel counts.

    reference, prediction: (W, H, D) boolean, which may be cut from a scan of so many `voxels` (see `crop`). step_mm:
    (3, 3), an affine without its origin.
    """
    reference, prediction = crop(reference, prediction)
    counts = count(reference, prediction) + Counts(0, 0, 0, voxels - reference.size)
    voxel_ml = float(abs(np.linalg.det(step_mm))) / 1000
    difference = relative_volume_difference(counts)
    distances: dict[str, Any] = surface_scores(reference, prediction, step_mm)
    scores = RegionScores(
        case_id=case_id,
        region=region,
        dice=dice(counts),
        iou=iou(counts),
        precision=precision(counts),
        recall=recall(counts),
        pixel_accuracy=pixel_accuracy(counts),
        mean_iou=mean_iou(counts),
        reference_ml=counts.reference * voxel_ml,
        prediction_ml=counts.prediction * voxel_ml,
        volume_difference_ml=(counts.prediction - counts.reference) * voxel_ml,
        volume_difference_percent=100 * difference,
        voe=1 - iou(counts),
        rvd=difference,
        false_positive_ml=None if counts.reference else counts.prediction * voxel_ml,
        **distances,
    )
    return scores, counts


def surface_scores(reference: np.ndarray, prediction: np.ndarray, step_mm: np.ndarray) -> dict[str, float]:
    """Return NSD, HD95, ASSD, RMSD and MSD of two masks, by the definitions in surface.py."""
    elements = surface.element_distances(reference, prediction, step_mm)
    borders = surface.border_distances(reference, prediction, step_mm)
    return {
        **{f"nsd_{mm}mm": surface.nsd(elements, mm) for mm in NSD_TOLERANCES_MM},
        "hd95_mm": surface.hausdorff(elements, 95),
        "assd_mm": surface.assd(borders),
        "rmsd_mm": surface.rmsd(borders),
        "msd_mm": surface.hausdorff(borders),
    }


def crop(reference: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks, or label maps, cut to the box around both, contiguous; one voxel if both are empty."""
    either = reference | prediction
    box = []
    for axis in range(either.ndim):
        (inside,) = np.nonzero(either.any(axis=tuple(a for a in range(either.ndim) if a != axis)))
        box.append(slice(inside[0], inside[-1] + 1) if len(inside) else slice(1))
    return np.ascontiguousarray(reference[tuple(box)]), np.ascontiguousarray(prediction[tuple(box)])
