"""A versioned SavedModel: written beside, checked in a fresh process, and only then moved to its number."""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_liver.experiment import Experiment
from tf_liver.files import fsync, write_atomic
from tf_liver.model.predictor import AveragedSlices, SlicePredictor
from tf_liver.serving.card import model_card
from tf_liver.serving.check import check_model
from tf_liver.serving.configs import write_configs
from tf_liver.serving.signature import ServedModel
from tf_liver.serving.warmup import write_warmup
from tf_liver.serving.wire import MODEL_NAME, PNG_OFFSET_HU
from tf_liver.volume.inference import Predictor, probability_batches


def write_bundle(
    predictor: SlicePredictor | AveragedSlices,
    experiment: Experiment,
    output: Path,
    slices: np.ndarray,
    version: int | None = None,
    facts: dict[str, Any] | None = None,
    others: Sequence[Experiment] = (),
) -> Path:
    """Write `output/tf_liver/<version>/`, one above the newest where no version is given, and return it.

    slices: (B, H, W) int16 HU, on which every signature is compared with the predictor.
    facts: what metadata.json and the model card say about the run.
    others: experiments of the other runs, where several answer together.

    Raises:
        ValueError: a version that exists, or an experiment that serve_encoded cannot carry.
        CheckError: the reloaded model does not answer as the project does.
    """
    for each in (experiment, *others):
        require_encodable(each)
    native = any(each.image_size == 0 for each in (experiment, *others))
    root = output / MODEL_NAME
    if version is not None and (root / str(version)).exists():
        raise ValueError(f"{root / str(version)}: this version exists; versions are never replaced")
    root.mkdir(parents=True, exist_ok=True)
    with workspace(root) as hidden:
        model = hidden / "model"
        if predictor.neighbours:  # clients must know it to cut a scan into requests
            facts = {**(facts or {}), "neighbours": predictor.neighbours}
        served = ServedModel(predictor, native, json.dumps(facts or {}))
        tf.saved_model.save(served, str(model), signatures=served.signatures())
        write_warmup(model, slices)
        alone = predictor.alone if predictor.neighbours else None
        checked = check_model(
            model,
            hidden,
            slices,
            lambda images: probability_of(predictor, images),
            alone and (lambda images: probability_of(alone, images)),
        )
        metadata = {**(facts or {}), "check": checked}
        (model / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
        write_atomic(model / "model_card.md", model_card(metadata, experiment), sync=False)
        for path in model.rglob("*"):
            fsync(path)
        write_configs(output)
        target = move_to_version(model, root, version)
    fsync(root)
    return target


def require_encodable(experiment: Experiment) -> None:
    """Refuse an HU window that begins below what a PNG of serve_encoded can hold."""
    if experiment.normalisation == "window" and experiment.window_hu[0] < -PNG_OFFSET_HU:
        raise ValueError(
            f"window_hu: serve_encoded carries HU from {-PNG_OFFSET_HU} on. Received: {experiment.window_hu[0]:g}"
        )


def probability_of(predictor: Predictor, images: np.ndarray) -> np.ndarray:
    """Return the project's own answer, in the batches of `segment_volume`."""
    return np.concatenate([probability for _, probability in probability_batches(predictor, images)])


@contextlib.contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """Give a hidden folder for one export, and remove it in the end, with those that killed exports left behind."""
    parent = _lock(root, wait=True)  # nobody takes a folder for abandoned before its owner has locked it
    assert parent is not None
    try:
        for old in root.glob(".writing-*"):
            if (handle := _lock(old)) is not None:
                shutil.rmtree(old, ignore_errors=True)
                os.close(handle)
        hidden = Path(tempfile.mkdtemp(dir=root, prefix=".writing-"))
        mine = _lock(hidden)
    finally:
        os.close(parent)
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if mine is not None:
            os.close(mine)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """Return a handle that holds a folder's lock, which the system frees when its holder dies; None if it is held."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return handle
    except BlockingIOError:
        os.close(handle)
        return None


def move_to_version(model: Path, root: Path, version: int | None) -> Path:
    """Rename a finished model to its version, or to one above the newest; numbers that got taken are passed over."""
    number = version or max((int(p.name) for p in root.iterdir() if p.name.isdigit()), default=0) + 1
    while True:
        target = root / str(number)
        try:
            os.rename(model, target)
            return target
        except OSError as error:
            if not target.exists():
                raise
            if version is not None:
                raise ValueError(f"{target}: another export was faster with this version") from error
            number += 1
