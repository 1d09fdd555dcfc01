"""What is wrong and what is odd in a Task03_Liver folder: every case is read, and nothing stops at the first fault."""

import hashlib
import itertools
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from tf_liver.data import DataError, DataWarning
from tf_liver.data.cases import Case, survey_cases
from tf_liver.data.header import affine_mm
from tf_liver.data.nifti import Volume, check_same_grid, read_grid, read_label, read_volume
from tf_liver.data.plausibility import odd_values
from tf_liver.data.slices import foreground, positive_slices
from tf_liver.processes import in_processes
from tf_liver.progress import track

# From a very fatty liver to one in full contrast; outside, label and image do not lie on each other.
LIVER_MEDIAN_HU = (-30, 250)
# The widest field that a scanner reconstructs as usual; 512 pixels of exactly 1 mm are wider.
WIDEST_FIELD_MM = 500


@dataclass(frozen=True)
class Finding:
    """Something wrong (error) or odd (warning); `case_id` is empty where it concerns the folder."""

    severity: Literal["error", "warning"]
    case_id: str
    message: str


@dataclass(frozen=True)
class CaseFacts:
    """What was read of one case; None stands for what could not be read, or was not asked for.

    shape, spacing_mm: along Right, Anterior, Superior. orientation: the axes of the file, such as LPS.
    real_spacing: False where the spacing looks like a placeholder, so that mm and ml mean nothing.
    liver_ml: tumours included. liver_hu: how often each HU occurs in the liver, rounded and clipped to int16.
    """

    case_id: str
    patient: str
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    orientation: str | None = None
    real_spacing: bool | None = None
    hu_range: tuple[float, float] | None = None
    voxel_hash: str | None = None
    liver_ml: float | None = None
    tumour_ml: float | None = None
    positive_slices: int | None = None
    liver_hu: Counter[int] | None = None


@dataclass(frozen=True)
class Verification:
    """Facts of every complete case, and all findings."""

    cases: list[CaseFacts]
    findings: list[Finding]

    def of(self, severity: str) -> list[Finding]:
        """Return the findings of one severity."""
        return [f for f in self.findings if f.severity == severity]


def verify_folder(data: Path, workers: int, quick: bool = False) -> Verification:
    """Check every case of a Task03_Liver folder, `workers` at a time; `quick` reads headers only.

    Raises:
        DataError: no such folder, or no scans in it. All else is a finding.
    """
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", DataWarning)
        cases, problems = survey_cases(data)
    findings = [Finding("error", "", str(problem)) for problem in problems]
    findings += [Finding("warning", "", str(w.message)) for w in heard]
    checked = list(track(in_processes(check_case, cases, workers, quick), "verifying cases", len(cases)))
    facts = [of_case for of_case, _ in checked]
    findings += itertools.chain.from_iterable(of_case for _, of_case in checked)
    return Verification(facts, findings + list(_duplicates(facts)))


def check_case(case: Case, quick: bool = False) -> tuple[CaseFacts, list[Finding]]:
    """Return the facts of one case and what is wrong or odd about it; `quick` reads headers only."""
    wrong: list[str] = []

    def attempt(step: Callable[[Path], Any], path: Path) -> Any:
        try:
            return step(path)
        except MemoryError:
            wrong.append(f"{path}: too large for this machine's memory; fewer workers need less")
        except (DataError, OSError) as error:
            wrong.append(" ".join(str(error).split()))
        return None

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", DataWarning)
        image = attempt(read_grid if quick else read_volume, case.image)
        label = attempt(read_grid if quick else read_label, case.label)
        if image and label:
            attempt(lambda path: check_same_grid(image, label, path), case.label)
    odd = [str(w.message) for w in heard if issubclass(w.category, DataWarning)]
    facts = _facts(case, image, label, quick)
    if image:
        odd += [f"{case.image}: {text}" for text in (*_odd_grid(image), *(() if quick else odd_values(image.voxels)))]
    odd += [f"{case.label}: {text}" for text in _odd_label(facts)]
    findings = [Finding("error", case.case_id, text) for text in wrong]
    return facts, findings + [Finding("warning", case.case_id, text) for text in odd]


def _facts(case: Case, image: Volume | None, label: Volume | None, quick: bool) -> CaseFacts:
    """Measure what could be read."""
    found: dict[str, Any] = {}
    if image:
        found |= {"shape": image.voxels.shape, "spacing_mm": image.spacing_mm}
        found["orientation"] = "".join(nib.aff2axcodes(affine_mm(image.header)))
        found["real_spacing"] = placeholder(image) is None
    if image and not quick:
        found["hu_range"] = (float(image.voxels.min()), float(image.voxels.max()))
        found["voxel_hash"] = _hash(image.slices)
    if label and not quick:
        found["liver_ml"] = float(np.count_nonzero(label.voxels) * label.voxel_ml)
        found["tumour_ml"] = float(np.count_nonzero(label.voxels == 2) * label.voxel_ml)
        found["positive_slices"] = len(positive_slices(label.slices))
        if image and image.voxels.shape == label.voxels.shape:
            found["liver_hu"] = histogram(image.slices[foreground(label.slices)])
    return CaseFacts(case.case_id, case.patient, **found)


def histogram(values_hu: np.ndarray) -> Counter[int]:
    """Return how often each HU occurs: exact for int16, else rounded and clipped to it; sums merge scans."""
    whole = np.rint(values_hu).clip(-32768, 32767).astype(np.int32)
    counts = np.bincount(whole + 32768)
    (there,) = np.nonzero(counts)
    return Counter(dict(zip((there - 32768).tolist(), counts[there].tolist(), strict=True)))


def _hash(slices: np.ndarray) -> str:
    """Return a hash of shape and values on the canonical grid, equal for copies along other axes or in other types."""
    digest = hashlib.blake2b(repr(slices.shape).encode(), digest_size=16)
    for one in slices:
        digest.update(np.ascontiguousarray(one, np.float32).data)
    return digest.hexdigest()


def placeholder(image: Volume) -> str | None:
    """Say why the spacing cannot be real, or None.

    LiTS volumes 28 to 47 carry an identity affine. A scan resampled to 1 mm is another matter: it keeps its
    origin, and a field that a scanner has.
    """
    spacing = tuple(round(mm, 6) for mm in image.spacing_mm)  # 0.001 m is not quite 1 mm in float32
    origin = affine_mm(image.header)[:3, 3]
    if spacing[:2] != (1, 1):
        return None
    if spacing[2] == 1 and not origin.any():
        return "identity affine with 1 mm spacing"
    if not origin[:2].any() or max(image.voxels.shape[:2]) > WIDEST_FIELD_MM:
        return f"spacing of exactly 1 × 1 × {spacing[2]:g} mm looks like a placeholder"
    return None


def _odd_grid(image: Volume) -> Iterator[str]:
    if why := placeholder(image):
        yield f"{why}; its millilitres and millimetres mean nothing"


def _odd_label(facts: CaseFacts) -> Iterator[str]:
    if facts.liver_ml == 0:
        yield f"case {facts.case_id} holds no liver; it adds no liver slices"
    if facts.liver_hu:
        low, high = LIVER_MEDIAN_HU
        median = percentile(facts.liver_hu, 50)
        if not low <= median <= high:
            yield f"the liver's median lies outside [{low}, {high}] HU: is it on its image? Received: {median}"


def percentile(counts: Counter[int], percent: float) -> int:
    """Return a percentile of counted values: the smallest that so many percent do not exceed (inverted CDF)."""
    values = np.array(sorted(counts))
    cumulated = np.cumsum([counts[v] for v in values.tolist()])
    return int(values[np.searchsorted(cumulated, cumulated[-1] * (percent / 100))])


def _duplicates(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Equal voxels: wrong under two patients, who may land on both sides of a split, odd under one."""
    groups: dict[str, list[CaseFacts]] = defaultdict(list)
    for case in cases:
        if case.voxel_hash:
            groups[case.voxel_hash].append(case)
    for group in groups.values():
        if len(group) > 1:
            patients = {case.patient for case in group}
            rule = "one scan under several patients" if len(patients) > 1 else "one scan several times"
            severity: Literal["error", "warning"] = "error" if len(patients) > 1 else "warning"
            names = ", ".join(case.case_id for case in group)
            yield Finding(severity, group[0].case_id, f"{rule}: equal voxels. Received: {names}")
