"""Ask an exported model, in a fresh process and through TensorFlow's C++ loader, what the project itself answers.

    python -m tf_liver.serving.check MODEL WORK

MODEL is a SavedModel, WORK a folder with signatures.json and slices.npy, where answers.npz is written. `check_model`
calls it; by hand, `write_request` makes WORK.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tf_liver.data import TUMOUR
from tf_liver.data.cases import find_cases
from tf_liver.data.nifti import read_volume
from tf_liver.data.phantom import make_phantom
from tf_liver.data.slices import THRESHOLD
from tf_liver.runs import Run
from tf_liver.serving.loader import LoadedModel, ServingError
from tf_liver.serving.wire import SIGNATURES, decode_labels, example_inputs
from tf_liver.volume.inference import labels_of

# The same graph on the same machine; what is left is the order of float32 sums.
TOLERANCE = 1e-3
LEAST_DICE = 0.999
TIMEOUT_S = 1800
SLICES = 8


class CheckError(RuntimeError):
    """An exported model that does not load, or does not answer as the project does."""


def check_model(
    model: Path,
    work: Path,
    slices: np.ndarray,
    segment: Callable[[np.ndarray], np.ndarray],
    alone: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict:
    """Run every signature of a SavedModel in a fresh process and compare it with the project's own inference.

    slices: (B, H, W) int16 HU. segment: the project's own inference, (B, H, W) float32 → probability, which `volume`
    must answer. alone: what the signatures of single slices must, where neighbours make a difference.
    Returns {"max_probability_difference", "least_dice", "volume_slices_per_s"}.

    Raises:
        CheckError: it does not load, a signature fails, a probability is TOLERANCE apart or a Dice below LEAST_DICE.
    """
    write_request(model, work, slices)
    command = [sys.executable, "-m", "tf_liver.serving.check", str(model), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"killed by signal {-done.returncode}"]
        raise CheckError(f"{model}: the exported model does not run in TensorFlow's C++ loader: {lines[-1]}")
    images = slices.astype(np.float32)
    expected = {"volume": segment(images)}
    of_slices = alone(images) if alone else expected["volume"]
    apart, dice = 0.0, 1.0
    with np.load(work / "answers.npz") as answers:
        for name, answer in answers.items():
            own = expected.get(name.split("/")[0], of_slices)
            if name.endswith("/probability"):
                apart = max(apart, float(np.abs(answer - own).max()))  # NaN stays NaN, and fails below
            elif name.endswith("/label"):
                dice = min(dice, agreement(answer, own))
        seconds = float(answers["seconds"])
    if not (apart <= TOLERANCE and dice >= LEAST_DICE):
        raise CheckError(
            f"{model}: the exported model must answer as the project does: probabilities within {TOLERANCE}, "
            f"Dice {LEAST_DICE} or more. Received: {apart:.2g} apart, Dice {dice:.5f}"
        )
    return {
        "max_probability_difference": apart,
        "least_dice": dice,
        "volume_slices_per_s": round(len(slices) / seconds, 2),
    }


def slices_to_check(run: Run) -> tuple[np.ndarray, str]:
    """Return slices from end to end of a held-out scan of the run, or of a phantom where none can be read, and whose.

    Returns (SLICES or fewer, H, W) int16 HU.
    """
    held_out, data = run.split["held_out"], run.data
    case_id = held_out[0]
    try:
        case = next(case for case in find_cases(data) if case.case_id == case_id)
        scan, where = read_volume(case.image).slices, f"held-out {case_id}"
    except (ValueError, OSError, StopIteration):
        scan, where = make_phantom(np.random.default_rng(0)).voxels.transpose(2, 1, 0), "a phantom"
    chosen = np.unique(np.linspace(0, len(scan) - 1, SLICES).round().astype(int))
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(scan[chosen]), limits.min, limits.max).astype(np.int16), where


def agreement(label: np.ndarray, probability: np.ndarray) -> float:
    """Return the Dice of labels with those of the project's own probabilities, the lower one of liver and tumour.

    Of a tumour of a few voxels, those that rounding may turn are left out: one alone would take it below LEAST_DICE.
    """
    expected = labels_of(probability)
    liver = dice_of(label > 0, expected > 0)
    if probability.ndim == 3:
        return liver
    sure = (np.abs(probability - THRESHOLD) > TOLERANCE).all(axis=-1)
    return min(liver, dice_of(sure & (label == TUMOUR), sure & (expected == TUMOUR)))


def dice_of(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice of two masks; two empty ones agree."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def write_request(model: Path, work: Path, slices: np.ndarray) -> None:
    """Write what the fresh process needs: slices, and the names of the graph's tensors."""
    (work / "signatures.json").write_text(json.dumps(read_signatures(model)))
    np.save(work / "slices.npy", slices)


def read_signatures(model: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Return the tensors behind each signature of a SavedModel, as its saved_model.pb names them.

    Raises:
        CheckError: there is no graph in it.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    graphs = SavedModel.FromString((model / "saved_model.pb").read_bytes()).meta_graphs
    if not graphs:
        raise CheckError(f"{model}: saved_model.pb holds no graph")
    return {
        name: {
            "inputs": {key: tensor.name for key, tensor in signature.inputs.items()},
            "outputs": {key: tensor.name for key, tensor in signature.outputs.items()},
        }
        for name, signature in graphs[0].signature_def.items()
        if not name.startswith("__")  # __saved_model_init_op
    }


def answers_of(model: LoadedModel, slices: np.ndarray) -> dict[str, Any]:
    """Return `signature/output` → array for every signature, and the seconds of a second call of `volume`."""
    answers: dict[str, Any] = {}
    inputs = example_inputs(slices)
    for name in SIGNATURES:
        for output, value in model.run(name, inputs[name]).items():
            if name == "describe":
                value = np.array(value)
            elif isinstance(value, list):
                output, value = output.removesuffix("_bytes"), decode_labels(value, slices.shape)
            answers[f"{name}/{output}"] = value
    start = time.perf_counter()
    model.run("volume", inputs["volume"])
    return {**answers, "seconds": time.perf_counter() - start}


def main(model: Path, work: Path) -> None:
    """Answer the request in a folder."""
    try:
        loaded = LoadedModel(model, json.loads((work / "signatures.json").read_text()))
        answers = answers_of(loaded, np.load(work / "slices.npy", allow_pickle=False))
    except (ServingError, KeyError, ValueError) as error:
        sys.exit(" ".join(str(error).split()))
    np.savez(work / "answers.npz", **answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
