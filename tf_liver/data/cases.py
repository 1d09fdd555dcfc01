"""Cases: one scan and its label each, the Task03_Liver layout, and folds by patient."""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tf_liver.data import LABELS, DataError, DataWarning
from tf_liver.files import read_json

FOLD_SEED = 0  # one dealing of patients into folds for everybody, whatever the seed of the training
DEFAULT_DATA = Path("data/Task03_Liver")
_TUMOUR = {"cancer", "tumour", "tumor"}
SUFFIXES = (".nii.gz", ".nii")
# Disks take 255, and the files of a case end in up to 26 more.
MAX_NAME_BYTES = 200


@dataclass(frozen=True)
class Case:
    """One scan and its label map; `patient` keeps a patient's scans on one side of every split."""

    case_id: str
    image: Path
    label: Path
    patient: str


@dataclass(frozen=True)
class Split:
    """Who trains and who is held out, for one fold."""

    train: tuple[Case, ...]
    held_out: tuple[Case, ...]

    def __post_init__(self) -> None:
        both = {c.patient for c in self.train} & {c.patient for c in self.held_out}
        if both:
            raise DataError(f"split: a patient must be on one side only. Received on both: {', '.join(sorted(both))}")

    @property
    def case_ids(self) -> dict[str, Any]:
        """The split as it is written into a run folder: case_ids of both sides, and case_id → patient."""
        return {
            "train": [c.case_id for c in self.train],
            "held_out": [c.case_id for c in self.held_out],
            "patients": {c.case_id: c.patient for c in (*self.train, *self.held_out)},
        }


def find_cases(data: Path) -> list[Case]:
    """Return the labelled cases of a Task03_Liver folder, sorted by case_id.

    `dataset.json`, when present, names the cases (an entry may carry a "patient") and its label names are
    checked; without it imagesTr/ and labelsTr/ are matched by file name. macOS `._*` files are not scans.

    Raises:
        DataError: no such folder, no cases, or an image without label or the other way round.
    """
    cases, problems = survey_cases(data)
    if problems:
        raise problems[0]
    return cases


def survey_cases(data: Path) -> tuple[list[Case], list[DataError]]:
    """Return the complete cases of a Task03_Liver folder as `find_cases` does, and all that is wrong with the rest.

    Raises:
        DataError: no such folder, or no scans in it.
    """
    if not data.is_dir():
        raise DataError(
            f"{data}: there is no such data folder. Task03_Liver of the Medical Segmentation Decathlon belongs "
            f"there (imagesTr/, labelsTr/, dataset.json); `make demo` needs no data"
        )
    problems: list[DataError] = []
    images, labels = _scans(data / "imagesTr", problems), _scans(data / "labelsTr", problems)
    if not images and not labels:
        none = DataError(f"{data}: must hold imagesTr/ and labelsTr/ with .nii or .nii.gz files. Received: none")
        raise problems[0] if problems else none
    try:
        patients = _read_dataset_json(data / "dataset.json")
    except DataError as error:
        problems.append(error)
        patients = {}
    for case_id in sorted(set(images) | set(labels) | set(patients), key=_natural):
        listed = ", yet dataset.json lists it" if case_id in patients else ""
        for kind, found, what in (("imagesTr", images, "image"), ("labelsTr", labels, "label")):
            if case_id not in found:
                problems.append(DataError(f"{data / kind}: case {case_id} has no {what}{listed}"))
    chosen = patients or {case_id: case_id for case_id in images}
    if left_out := sorted(set(images) - set(chosen), key=_natural):
        warnings.warn(
            f"{data / 'dataset.json'}: does not list {', '.join(left_out)}; left out",
            DataWarning,
            stacklevel=3,
        )
    complete = sorted(set(chosen) & set(images) & set(labels), key=_natural)
    return [Case(c, images[c], labels[c], chosen[c]) for c in complete], problems


def case_id_of(path: Path) -> str:
    """Return the file name without .nii or .nii.gz."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def _scans(folder: Path, problems: list[DataError]) -> dict[str, Path]:
    """Return case_id → file of the scans in a folder; add what is wrong to `problems`."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        if path.name.startswith(".") or not path.name.endswith(SUFFIXES):
            continue
        case_id = case_id_of(path)
        if (length := len(os.fsencode(case_id))) > MAX_NAME_BYTES:
            problems.append(
                DataError(f"{path}: a case's name must have {MAX_NAME_BYTES} bytes or less. Received: {length}")
            )
            continue
        if case_id in found:
            problems.append(
                DataError(f"{path}: case {case_id} must have one file. Received also: {found[case_id].name}")
            )
        found[case_id] = path
    return found


def _natural(case_id: str) -> tuple[object, ...]:
    """Sort liver_2 before liver_10."""
    parts = re.findall("[0-9]+|[^0-9]", case_id)
    return tuple((0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p) for p in parts)


def _read_dataset_json(path: Path) -> dict[str, str]:
    """Return case_id → patient of the training cases that dataset.json lists; empty without it."""
    if not path.is_file():
        return {}
    try:
        table = read_json(path, dict[str, Any])
        labels = {int(k): str(v).lower() for k, v in table.get("labels", {}).items()}
        entries = table.get("training", [])
        listed = [(case_id_of(Path(e["image"])), case_id_of(Path(e["label"])), e) for e in entries]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not the dataset.json of a Decathlon task: {error!r}") from error
    if labels and (
        labels.get(1) != "liver" or labels.get(2, "cancer") not in _TUMOUR or not set(labels) <= set(LABELS)
    ):
        raise DataError(f"{path}: labels must be 0 background, 1 liver, 2 cancer. Received: {labels}")
    for image_id, label_id, _ in listed:
        if image_id != label_id:
            raise DataError(f"{path}: image and label of a case must have one name. Received: {image_id}, {label_id}")
    return {case_id: case_id if entry.get("patient") is None else str(entry["patient"]) for case_id, _, entry in listed}


def split_folds(cases: Sequence[Case], folds: int, seed: int) -> list[Split]:
    """Return one split a fold: patients are shuffled with the seed and dealt out in turn.

    Every case is held out in exactly one fold. With fewer patients than folds there are as many folds as
    patients.

    Raises:
        DataError: fewer than two patients.
    """
    patients = sorted({case.patient for case in cases}, key=_natural)
    if len(patients) < 2:
        raise DataError(f"folds: a split needs at least 2 patients. Received: {len(patients)}")
    order = np.random.default_rng(seed).permutation(len(patients))
    fold_of = {patients[p]: i % min(folds, len(patients)) for i, p in enumerate(order)}
    return [
        Split(
            train=tuple(c for c in cases if fold_of[c.patient] != fold),
            held_out=tuple(c for c in cases if fold_of[c.patient] == fold),
        )
        for fold in range(min(folds, len(patients)))
    ]


def choose_split(cases: Sequence[Case], folds: int, fold: int) -> Split:
    """Return the split of one fold.

    Raises:
        DataError: there is no such fold.
    """
    splits = split_folds(cases, folds, FOLD_SEED)
    if not 0 <= fold < len(splits):
        raise DataError(f"fold: must lie in [0, {len(splits) - 1}] for {len(cases)} cases. Received: {fold}")
    return splits[fold]


def held_out_of(cases: Sequence[Case], case_ids: dict[str, Any], other_data: bool) -> list[Case]:
    """Return the cases on which a run may be scored.

    case_ids: the run's split.json; older ones name no patients. In the run's own data those are the held-out
    cases; in other data every case but those the run was trained on and other scans of their patients.

    Raises:
        DataError: a held-out case is missing from the data, or nothing is left to score.
    """
    if other_data:
        patients = case_ids.get("patients", {})
        trained = {patients[c] for c in case_ids["train"] if c in patients}
        chosen = [c for c in cases if c.case_id not in case_ids["train"] and c.patient not in trained]
        if left_out := [c.case_id for c in cases if c not in chosen]:
            who = f"the patients of {', '.join(left_out)}"
            warnings.warn(f"the run was trained on {who}; not scored", DataWarning, stacklevel=2)
    else:
        chosen = [c for c in cases if c.case_id in case_ids["held_out"]]
        if missing := sorted(set(case_ids["held_out"]) - {c.case_id for c in chosen}, key=_natural):
            raise DataError(f"split.json: the data must hold every held-out case. Missing: {', '.join(missing)}")
    if not chosen:
        raise DataError("evaluation needs a case that the run was not trained on. Received: none")
    return chosen
