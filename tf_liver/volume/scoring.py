"""Label-map files against references, several cases at a time: our own predictions and those of other tools alike."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tf_liver.command import one_line
from tf_liver.data import LIVERS, TUMOUR, DataError
from tf_liver.data.cases import Case
from tf_liver.data.nifti import Volume, check_same_grid, read_label, read_volume
from tf_liver.data.verification import placeholder
from tf_liver.data.write import write_label_map
from tf_liver.processes import in_processes
from tf_liver.progress import track
from tf_liver.volume.lesions import Lesions, match_lesions, tumour_burden
from tf_liver.volume.overlay import grey_of, overlay
from tf_liver.volume.scores import Counts, RegionScores, crop, score_region


@dataclass(frozen=True)
class CaseResult:
    """What came out of one case: a row and voxel counts a region, and its lesions; or why it could not be scored.

    placeholder: why its millilitres and millimetres mean nothing, where they do.
    """

    case: Case
    rows: Mapping[str, RegionScores] = field(default_factory=dict)
    counts: Mapping[str, Counts] = field(default_factory=dict)
    lesions: Lesions | None = None
    claims_tumour: bool = False
    placeholder: str | None = None
    error: str = ""


def score_label_maps(
    cases: Sequence[Case],
    predictions: Path,
    liver: str,
    workers: int,
    keep: Path | None = None,
    tumours: bool = False,
) -> list[CaseResult]:
    """Score the label map of every case in a folder (see `read_prediction`); a bad case stops no other one.

    liver: a key of LIVERS. keep: folder for a uint8 copy of each prediction on the reference's grid. Region "tumour" is
    scored in all cases if a prediction of any case holds label 2, or if `tumours` were looked for.
    """
    scored = in_processes(score_case, cases, workers, predictions, liver, keep)
    results = list(track(scored, "scoring cases", len(cases)))
    if tumours or any(result.claims_tumour for result in results):
        return results
    return [
        replace(
            result,
            rows={name: row for name, row in result.rows.items() if name == "liver"},
            counts={name: counts for name, counts in result.counts.items() if name == "liver"},
            lesions=None,
        )
        for result in results
    ]


def score_case(case: Case, predictions: Path, liver: str, keep: Path | None) -> CaseResult:
    """Score one case; what is wrong with its files is returned, but an OSError of `keep` is raised."""
    try:
        reference = read_label(case.label)
        prediction = read_prediction(predictions, case.case_id, reference)
        result = _scored(case, reference, prediction, liver)
    except MemoryError:
        return CaseResult(case, error=f"case {case.case_id}: too large for this machine's memory; lower --workers")
    except (ValueError, OSError) as error:
        return CaseResult(case, error=one_line(error))
    if keep:
        write_label_map(keep / f"{case.case_id}.nii.gz", prediction, reference.header)
    return result


def _scored(case: Case, reference: Volume, prediction: np.ndarray, liver: str) -> CaseResult:
    true, claimed = crop(reference.voxels, prediction)
    step_mm, voxels = reference.affine[:3, :3], prediction.size
    rows, counts = {}, {}
    for name, labels in (("liver", LIVERS[liver]), ("tumour", (TUMOUR,))):
        masks = np.isin(true, labels), np.isin(claimed, labels)
        rows[name], counts[name] = score_region(case.case_id, name, *masks, step_mm, voxels)
    lesions = match_lesions(*masks, step_mm)  # those of the tumours, which came last
    rows["tumour"] = replace(
        rows["tumour"],
        lesions_found=lesions.found,
        lesions_missed=lesions.missed,
        lesions_invented=lesions.invented,
        burden_reference=tumour_burden(true),
        burden_prediction=tumour_burden(claimed),
    )
    return CaseResult(case, rows, counts, lesions, bool(counts["tumour"].prediction), placeholder(reference))


def read_prediction(folder: Path, case_id: str, reference: Volume) -> np.ndarray:
    """Return a case's predicted label map, canonical (W, H, D) uint8, on the grid of the reference.

    `<case_id>.nii.gz` or `.nii` with labels 0, 1 and 2, as nnU-Net and this project write them; or a folder
    `<case_id>/` with the masks liver.nii.gz and, if there is one, liver_tumor.nii.gz, as TotalSegmentator does
    (`-o <case_id>`, its tasks total and liver_vessels).

    Raises:
        DataError: no prediction, several, a damaged one, or another grid than the reference's: nothing is resampled.
    """
    found = [path for path in (folder / f"{case_id}.nii.gz", folder / f"{case_id}.nii") if path.is_file()]
    masks = folder / case_id / "liver.nii.gz"
    found += [masks] if masks.is_file() else []
    if len(found) != 1:
        wanted = f"one of {case_id}.nii.gz, {case_id}.nii and {case_id}/liver.nii.gz"
        received = ", ".join(str(path.relative_to(folder)) for path in found) or "none"
        raise DataError(f"{folder}: case {case_id} must have {wanted} as its prediction. Received: {received}")
    label_map = _on_grid(found[0], reference)
    tumour = masks.with_name("liver_tumor.nii.gz")
    if found == [masks] and tumour.is_file():
        return np.where(_on_grid(tumour, reference) > 0, np.uint8(TUMOUR), label_map)
    return label_map


def _on_grid(path: Path, reference: Volume) -> np.ndarray:
    prediction = read_label(path)
    check_same_grid(reference, prediction, path, ("prediction", "reference"))
    return prediction.voxels


def picture(case: Case, predictions: Path) -> np.ndarray:
    """Return the slice with the largest reference and both contours, (H, W, 3) uint8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd about these files was said when they were scored
        image, label = read_volume(case.image), read_label(case.label)
        check_same_grid(image, label, case.label)
        prediction = read_prediction(predictions, case.case_id, label).transpose(2, 1, 0) > 0
    reference = label.slices > 0
    shown = int(reference.sum(axis=(1, 2)).argmax())
    return overlay(grey_of(image.slices[shown]), reference[shown], prediction[shown])
