"""Experiment: everything that decides what is learnt, in one flat table that is checked when it is made."""

import dataclasses
import difflib
import json
import math
import re
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AUGMENTATIONS = (
    *("resize", "rotate", "flip_rotate", "affine"),
    *("flip_rotate_intensity", "affine_intensity", "affine_intensity_elastic", "few_patients"),
)
MIRRORING = ("flip_rotate", "flip_rotate_intensity")  # after these a network knows mirror images
LOSSES = ("bce", "dice", "bce_dice", "focal_tversky", "bce_focal_tversky")
NORMALISATIONS = ("clip_max", "window")
OPTIMIZERS = ("adam", "adamw")
POSTPROCESSING = ("none", "largest", "largest_filled")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
SCHEDULES = ("constant", "plateau", "cosine")
TASKS = ("liver", "tumour")
TUMOUR_HEADS = ("regions", "classes")
EXPERIMENT_MEANT = "name of a file in experiments/, or a path to one, which is code that is run (default: baseline)"
# Fields that came later, with what older runs did.
ADDED = {
    "postprocessing": "none",
    "encoder_weights": "none",
    "neighbours": 0,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "warmup_epochs": 0.0,
    "averaging": 0.0,
    "decoder_dropout": 0.0,
    "tumour_head": "regions",
    "tumour_ratio": 0.0,
}
OWN_FOLDER = Path(__file__).resolve().parents[1] / "experiments"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class ExperimentError(ValueError):
    """A field of an experiment that is unknown, missing or out of range."""


def _setting(help: str, *, choices: Sequence[str] = (), low: float = -math.inf, high: float = math.inf) -> Any:
    return field(metadata={"help": help, "choices": tuple(choices), "low": low, "high": high})


@dataclass(frozen=True)
class Experiment:
    """The definition of one experiment; machine facts (paths, fold, seed) are options of the commands.

    There are no defaults: `experiments/baseline.py` writes every field out, and a variant is
    `replace(load("baseline"), name=…, …)`.

    Raises:
        ExperimentError: a field has another type, or a value outside its range or choices.
    """

    name: str = _setting("name of the experiment, part of its run folders' names")
    task: str = _setting(
        "what is looked for: liver = labels 1 and 2 as one; tumour = the liver and, in it, label 2", choices=TASKS
    )
    normalisation: str = _setting(
        "clip_max: negatives to 0, each slice divided by its maximum; window: window_hu scaled to [0, 1]",
        choices=NORMALISATIONS,
    )
    window_hu: tuple[float, float] = _setting("low and high end of the HU window, for window")
    image_size: int = _setting(
        "height and width that slices are resized to; 0 keeps the native size, padded to a multiple of 32",
        low=0,
        high=2048,
    )
    neighbours: int = _setting(
        "slices above and below each slice that the network sees as well, as channels: 2n + 1 of them", low=0, high=8
    )
    negative_ratio: float = _setting(
        "liver-free slices that train for each liver slice; 0 trains on liver slices only", low=0.0, high=1000.0
    )
    tumour_ratio: float = _setting(
        "additional times that each slice with tumour is drawn in an epoch", low=0.0, high=1000.0
    )
    augmentation: str = _setting("policy of tf_liver/data/augment.py", choices=AUGMENTATIONS)
    backbone: str = _setting("encoder of segmentation_models.Unet")
    encoder_weights: str = _setting(
        "what the encoder begins with: none, imagenet, or a file of its weights without the top (.h5)"
    )
    decoder_dropout: float = _setting(
        "share of the decoder's channels that are dropped before the last convolution", low=0.0, high=0.99
    )
    tumour_head: str = _setting(
        "what a tumour model gives: regions = two sigmoids, liver with tumours and tumour; "
        "classes = a softmax of background, liver, tumour",
        choices=TUMOUR_HEADS,
    )
    batch_norm_momentum: float = _setting(
        "how slowly batch normalisation's averages follow; 0.99 needs over 300 steps to settle; 0 suits averaging, "
        "which then averages what each batch showed",
        low=0.0,
        high=0.9999,
    )
    loss: str = _setting(
        "bce: cross-entropy; dice: soft Dice; focal_tversky: for what is rare; bce_…: the sum of two", choices=LOSSES
    )
    batch_size: int = _setting("slices in a batch", low=1, high=65536)
    epochs: int = _setting("passes over the training slices", low=1, high=1_000_000)
    optimizer: str = _setting("adam, or adamw with its weight_decay", choices=OPTIMIZERS)
    weight_decay: float = _setting("share of each kernel that adamw takes off at learning rate 1", low=0.0, high=100.0)
    learning_rate: float = _setting("learning rate at the start", low=1e-12, high=100.0)
    warmup_epochs: float = _setting(
        "epochs, or a part of one, in which the learning rate rises from 0; the schedule comes after it",
        low=0.0,
        high=1_000_000,
    )
    schedule: str = _setting(
        "learning rate: constant; plateau: halved when validation Dice stalls; cosine: to 0 at the last step",
        choices=SCHEDULES,
    )
    early_stopping: int = _setting(
        "epochs without a better validation Dice before training stops; 0 never stops", low=0, high=1_000_000
    )
    averaging: float = _setting(
        "decay of the moving average of the weights, which validates and is kept; 0 keeps the last step's",
        low=0.0,
        high=0.99999,
    )
    precision: str = _setting("auto picks by hardware", choices=PRECISIONS)
    folds: int = _setting("folds of the cross-validation, by patient", low=2, high=1000)
    postprocessing: str = _setting(
        "what is mended in a whole label map: nothing; only the largest component stays; its holes are filled too",
        choices=POSTPROCESSING,
    )

    def __new__(cls, **fields: Any) -> "Experiment":
        # Ahead of dataclass' __init__, whose TypeError gives no hint; pickle and copy come without fields.
        if fields:
            _check_names(fields, complete=True)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            object.__setattr__(self, spec.name, _checked(spec, getattr(self, spec.name)))
        low, high = self.window_hu
        if not low < high:
            raise ExperimentError(f"window_hu: low must lie below high. Received: {low:g} {high:g}")
        if self.image_size % 32:
            raise ExperimentError(
                f"image_size: must be a multiple of 32, or 0 for the native size. Received: {self.image_size}"
            )
        if self.weight_decay and self.optimizer != "adamw":
            raise ExperimentError(f"weight_decay: needs the optimizer adamw. Received: {self.optimizer!r}")
        if self.warmup_epochs >= self.epochs:
            raise ExperimentError(
                f"warmup_epochs: must lie below epochs, {self.epochs}. Received: {self.warmup_epochs:g}"
            )
        if not _NAME.fullmatch(self.name):  # it names folders, and the network's TensorFlow scope
            raise ExperimentError(
                f"name: letters a to z, digits, '-', '_' and '.', a letter or digit first. Received: {self.name!r}"
            )

    def to_json(self) -> str:
        """Return the experiment as a JSON object, one field a line."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def _checked(spec: dataclasses.Field[Any], value: Any) -> Any:
    """Return the value of a field in the field's own type, or say which rule it breaks."""
    if spec.type == tuple[float, float]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ExperimentError(f"{spec.name}: must be two numbers. Received: {value!r}")
        return tuple(_checked_number(spec, float, v) for v in value)
    if spec.type in (int, float):
        return _checked_number(spec, spec.type, value)
    if not isinstance(value, str):
        raise ExperimentError(f"{spec.name}: must be a string. Received: {value!r}")
    choices = spec.metadata["choices"]
    if choices and value not in choices:
        raise ExperimentError(f"{spec.name}: must be one of {', '.join(choices)}. Received: {value!r}")
    return value


def _checked_number(spec: dataclasses.Field[Any], kind: type, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExperimentError(f"{spec.name}: must be of type {kind.__name__}. Received: {value!r}")
    finite = abs(value) <= sys.float_info.max  # math.isfinite fails on integers beyond float
    if finite and kind is int and value != int(value):
        raise ExperimentError(f"{spec.name}: must be of type int. Received: {value!r}")
    low, high = spec.metadata["low"], spec.metadata["high"]
    if not finite or not low <= value <= high:
        raise ExperimentError(f"{spec.name}: must lie in [{low:g}, {high:g}]. Received: {value!r}")
    return kind(value)


def replace(experiment: Experiment, **changes: Any) -> Experiment:
    """Return the experiment with some fields changed.

    Raises:
        ExperimentError: an unknown field, or a value that breaks a rule.
    """
    _check_names(changes)
    return dataclasses.replace(experiment, **changes)


def from_json(text: str, source: str) -> Experiment:
    """Return the experiment that `to_json` wrote; `source` names the file in errors.

    Raises:
        ExperimentError: not a JSON object, or a field unknown, missing or out of range.
    """
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExperimentError(f"{source}: not JSON: {error}") from error
    if not isinstance(table, dict):
        raise ExperimentError(f"{source}: must hold an object. Received: {type(table).__name__}")
    return from_table(table, source)


def from_table(table: Mapping[str, Any], source: str) -> Experiment:
    """Return the experiment with these fields; `source` names the file in errors.

    Raises:
        ExperimentError: a field unknown, missing or out of range.
    """
    table = {**ADDED, **table}
    try:
        _check_names(table, complete=True)
        return Experiment(**table)
    except ExperimentError as error:
        raise ExperimentError(f"{source}: {error}") from error


def _check_names(table: Mapping[str, Any], complete: bool = False) -> None:
    names = [f.name for f in dataclasses.fields(Experiment)]
    for name in table:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}"
            raise ExperimentError(f"{name}: no such field of an experiment; {hint}")
    if complete and (missing := [name for name in names if name not in table]):
        raise ExperimentError(f"missing fields: {', '.join(missing)}")


def _files() -> dict[str, Path]:
    """Return name → file of all experiments: those beside the package, and before them those of the working folder."""
    folders = (OWN_FOLDER, Path("experiments"))
    return {p.stem: p for folder in folders for p in folder.glob("*.py") if not p.name.startswith("_")}


def names() -> list[str]:
    """Return the names of all experiments, sorted."""
    return sorted(_files())


def load(name: str) -> Experiment:
    """Return the experiment that `experiments/<name>.py`, or the file `name` if it ends in .py, defines.

    The file is Python code, and is run. Which one is said on stderr where it is another than the package's own and was
    found by its name alone: an `experiments/` in the working folder comes first.

    Raises:
        ExperimentError: no such experiment (the message lists the names there are), a file without
            `EXPERIMENT = Experiment(…)`, or one with a bad field.
    """
    path = Path(name) if name.endswith(".py") else _files().get(name)
    if path is None or not path.is_file():
        raise ExperimentError(f"experiment: there is no {name!r}; there are: {', '.join(names())}")
    if not name.endswith(".py") and path.resolve().parent != OWN_FOLDER:
        print(f"running the experiment file {path.resolve()}", file=sys.stderr, flush=True)
    try:
        experiment = runpy.run_path(str(path)).get("EXPERIMENT")
    except ExperimentError as error:
        raise ExperimentError(f"{path}: {error}") from error
    if not isinstance(experiment, Experiment):
        raise ExperimentError(f"{path}: must define EXPERIMENT = Experiment(…). Received: {experiment!r}")
    return experiment
