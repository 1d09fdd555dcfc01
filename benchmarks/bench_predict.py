"""A whole scan on the CPU: this project, plain Keras, ONNX Runtime and OpenVINO with the same weights.

    .venv/bin/python benchmarks/bench_predict.py [--run runs/…] [--quick] [--rounds 3] [--slices 443]

From a 512² int16 .nii.gz to a label map on its grid, at the network's 256²: seconds after start-up (imports and model).
Every contestant is a process of its own, the rounds are interleaved, medians are reported. The peers read with nibabel,
resize with OpenCV and write with nibabel; they take part where `make bench-peers` has made their environment. Without
--run the weights are random, which costs the same. Dice is with the float32 masks of plain Keras, on the scans of
TF_LIVER_REAL_DATA where there are any, and needs --run.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import PEERS, finish, medians, run, say

SIZE, BATCH, WINDOW = 256, 16, (-100.0, 250.0)
STARTED = time.perf_counter()


def experiment_of(folder: Path) -> Any:
    """Return the experiment whose network lies in the bench's folder, at the bench's size."""
    from tf_liver.experiment import from_json

    return from_json((folder / "experiment.json").read_text(), "bench")


def ours(folder: Path, scan: Path, out: Path) -> dict[str, float]:
    """This project as its command does it, but nothing is read before the model is loaded: there the clock starts."""
    from tf_liver.model.predictor import load_predictor
    from tf_liver.volume.inference import segment_files

    predictor, _ = load_predictor(experiment_of(folder), str(folder / "network.weights.h5"))
    start = time.perf_counter()
    (done,) = segment_files(lambda: predictor, [scan], [out])
    if done.error:
        raise done.error
    return {"seconds": time.perf_counter() - start}


def keras(folder: Path, scan: Path, out: Path) -> dict[str, float]:
    """What a user would write: float64 from nibabel, float32 slices, model.predict, resize back, nibabel."""
    import nibabel as nib
    import numpy as np

    from tf_liver.command import quiet_tensorflow
    from tf_liver.experiment import replace
    from tf_liver.model.unet import load_network

    tf = quiet_tensorflow()
    network = load_network(replace(experiment_of(folder), precision="float32"), str(folder / "network.weights.h5"))
    start = time.perf_counter()
    image = nib.load(scan)
    voxels = nib.as_closest_canonical(image).get_fdata().astype(np.float32).transpose(2, 1, 0)
    normalised = (np.clip(voxels, *WINDOW) - WINDOW[0]) / (WINDOW[1] - WINDOW[0])
    small = tf.image.resize(normalised[..., None], (SIZE, SIZE)).numpy()
    probability = tf.sigmoid(network.predict(small, batch_size=BATCH, verbose=0))
    mask = np.empty(voxels.shape, np.uint8)
    for first in range(0, len(mask), BATCH):
        mask[first : first + BATCH] = (
            tf.image.resize(probability[first : first + BATCH], voxels.shape[1:])[..., 0] >= 0.5
        )
    save(image, mask, out)
    return {"seconds": time.perf_counter() - start}


def save(image: Any, mask: Any, out: Path) -> None:
    """Write a canonical (D, H, W) mask on the grid of a nibabel image."""
    import nibabel as nib

    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.io_orientation(image.affine))
    native = nib.orientations.apply_orientation(mask.transpose(2, 1, 0), turn)
    nib.save(nib.Nifti1Image(native, image.affine), out)


def with_runtime(infer: Callable[[Any], Any], batch: int, scan: Path, out: Path) -> dict[str, float]:
    """A peer's runtime in a script as good as a user's: int16 from nibabel, OpenCV before and after."""
    import cv2
    import nibabel as nib
    import numpy as np

    infer(np.zeros((batch, SIZE, SIZE, 1), np.float32))
    start = time.perf_counter()
    image = nib.load(scan)
    slices = np.asanyarray(nib.as_closest_canonical(image).dataobj).transpose(2, 1, 0)
    mask = np.empty(slices.shape, np.uint8)
    inputs = np.zeros((batch, SIZE, SIZE, 1), np.float32)
    for first in range(0, len(slices), batch):
        some = slices[first : first + batch]
        for n, one in enumerate(some):
            clipped = (np.clip(one, *WINDOW).astype(np.float32) - WINDOW[0]) / (WINDOW[1] - WINDOW[0])
            inputs[n, ..., 0] = cv2.resize(clipped, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        probability = 1 / (1 + np.exp(-infer(inputs)[..., 0]))
        for n in range(len(some)):
            mask[first + n] = cv2.resize(probability[n], slices.shape[:0:-1], interpolation=cv2.INTER_LINEAR) >= 0.5
    save(image, mask, out)
    return {"seconds": time.perf_counter() - start}


def onnxruntime(folder: Path, scan: Path, out: Path) -> dict[str, float]:
    """ONNX Runtime, float32 (its CPU provider has no bfloat16 convolution)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return with_runtime(lambda x: session.run(None, {name: x})[0], BATCH, scan, out)


def openvino(folder: Path, scan: Path, out: Path, precision: str) -> dict[str, float]:
    """OpenVINO from the SavedModel, batches of 8 (its best here), in float32 or bfloat16."""
    import openvino as ov

    core, batch = ov.Core(), 8
    model = core.read_model(folder / "saved_model")
    model.reshape([batch, SIZE, SIZE, 1])
    request = core.compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    ).create_infer_request()
    return with_runtime(lambda x: request.infer([x])[0], batch, scan, out)


CONTESTANTS: dict[str, Callable[[Path, Path, Path], dict[str, float]]] = {
    "ours": ours,
    "keras_f32": keras,
    "onnxruntime_f32": onnxruntime,
    "openvino_f32": lambda *a: openvino(*a, precision="f32"),
    "openvino_bf16": lambda *a: openvino(*a, precision="bf16"),
}
BY_PEERS = ("onnxruntime_f32", "openvino_f32", "openvino_bf16")


def make_network(folder: Path, of_run: Path | None) -> None:
    """Write weights, SavedModel and ONNX of a run's network, or of an untrained one, for the contestants."""
    from tf_liver.command import quiet_tensorflow
    from tf_liver.experiment import load, replace
    from tf_liver.model.unet import build_network, load_network
    from tf_liver.runs import Run

    tf = quiet_tensorflow()
    opened = Run.open(of_run) if of_run else None
    experiment = opened.experiment if opened else load("window")
    experiment = replace(experiment, image_size=SIZE, precision="float32", normalisation="window", window_hu=WINDOW)
    weights = str(opened.require_checkpoint("best")) if opened else None
    network = load_network(experiment, weights) if weights else build_network(experiment)
    network.save_weights(folder / "network.weights.h5")
    (folder / "experiment.json").write_text(replace(experiment, precision="auto").to_json())
    module = tf.Module()
    module.network = network
    module.forward = tf.function(
        lambda x: network(x, training=False), input_signature=[tf.TensorSpec((None, SIZE, SIZE, 1), tf.float32)]
    )
    tf.saved_model.save(module, str(folder / "saved_model"), signatures=module.forward)
    if PEERS.exists():
        argv = ["--saved-model", str(folder / "saved_model"), "--output", str(folder / "network.onnx"), "--opset", "17"]
        peers = next(PEERS.parents[1].glob("lib/python*/site-packages"))
        # tf2onnx lies with the peers, its TensorFlow here.
        code = f"import sys; sys.path.append({str(peers)!r}); from tf2onnx.convert import main; main()"
        subprocess.run([sys.executable, "-c", code, *argv], check=True, capture_output=True)


def make_scan(path: Path, depth: int) -> Path:
    """Write a phantom of 512² as a scan of so many slices, each with noise of its own, once."""
    if path.exists():
        return path
    import nibabel as nib
    import numpy as np

    from tf_liver.data.phantom import make_phantom

    rng = np.random.default_rng(0)
    phantom = make_phantom(rng, size=512, vary=0.0)
    chosen = np.linspace(0, phantom.voxels.shape[2] - 1, depth).round().astype(int)
    voxels = phantom.voxels[..., chosen]
    for k in range(depth):
        voxels[..., k] += rng.normal(0, 10, voxels.shape[:2]).astype(np.int16)
    affine = phantom.affine @ np.diag([1, 1, phantom.voxels.shape[2] / depth, 1])
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def dice_with(first: Path, second: Path) -> float:
    """Return the Dice of two label maps."""
    import nibabel as nib
    import numpy as np

    a, b = (np.asarray(nib.load(path).dataobj) > 0 for path in (first, second))
    return float(2 * (a & b).sum() / (a.sum() + b.sum())) if a.any() or b.any() else 1.0


def contest(name: str, folder: Path, scan: Path, out: Path) -> dict[str, Any]:
    """Run one contestant on one scan in a process of its own."""
    python = str(PEERS) if name in BY_PEERS else sys.executable
    job = ["--only", name, "--folder", str(folder), "--scan", str(scan), "--out", str(out)]
    return run([python, __file__, *job], {"PYTHONPATH": str(Path(__file__).parents[1]), "TF_CPP_MIN_LOG_LEVEL": "3"})


def real_scans() -> Iterator[Path]:
    """Yield real scans, where there are any."""
    data = os.environ.get("TF_LIVER_REAL_DATA", "")
    if data:
        yield from sorted(Path(data).glob("Task03_Liver/imagesTr/*.nii.gz"))
        yield from sorted(Path(data).glob("other/*_image.nii.gz"))


def main() -> None:
    """Run the rounds, or one contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round over 64 slices")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=443)
    parser.add_argument("--run", type=Path, help="the run whose weights are used")
    parser.add_argument(
        "--folder", type=Path, default=Path("data/bench-predict"), help="where scans and models are kept"
    )
    for hidden in ("--only", "--scan", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        result = CONTESTANTS[options.only](options.folder, Path(options.scan), Path(options.out))
        print(json.dumps({**result, "with_start_up": time.perf_counter() - STARTED}))
        return
    if options.quick:
        options.rounds, options.slices = 1, 64
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    make_network(folder, options.run)
    scan = make_scan(folder / f"scan-{options.slices}.nii.gz", options.slices)
    names = [name for name in CONTESTANTS if name not in BY_PEERS or PEERS.exists()]
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            say(f"round {number + 1}/{options.rounds}: {name}")
            rounds[name].append(contest(name, folder, scan, folder / f"{name}.nii.gz"))
    figures: dict[str, dict[str, Any]] = {name: dict(medians(results)) for name, results in rounds.items()}
    if not options.quick:
        long = make_scan(folder / "scan-1000.nii.gz", 1000)
        figures["ours_1000_slices"] = contest("ours", folder, long, folder / "long.nii.gz")
    dices = {}
    for number, real in enumerate(real_scans() if options.run else []):
        maps = [folder / f"{name}-{number}.nii.gz" for name in ("ours", "keras_f32")]
        for name, out in zip(("ours", "keras_f32"), maps, strict=True):
            contest(name, folder, real, out)
        dices[real.name] = dice_with(*maps)
    report(names, figures, dices, options.slices)


def report(names: list[str], figures: dict[str, Any], dices: dict[str, float], slices: int) -> None:
    """Print the table and the last line."""
    own = figures["ours"]["seconds"]
    print(f"{'':18} seconds  with start-up  slices/s  this project is faster by  peak MB")
    for name in names:
        seconds, peak = figures[name]["seconds"], figures[name]["peak_mb"]
        whole, speed = figures[name]["with_start_up"], slices / seconds
        print(f"{name:18} {seconds:7.2f} {whole:14.2f} {speed:9.1f} {seconds / own:24.2f} × {peak:8.0f}")
    ratios = {f"{name}/ours": figures[name]["seconds"] / own for name in names if name != "ours"}
    print(f"bar keras_f32/ours {ratios['keras_f32/ours']:.2f}, at least 3.5")
    if slices == 443:
        print(f"bar seconds of ours {own:.2f}, at most 8")
    if "ours_1000_slices" in figures:
        print(f"bar peak MB with 1,000 slices {figures['ours_1000_slices']['peak_mb']:.0f}, below 3,000")
    for name, value in dices.items():
        print(f"bar Dice with float32 masks, {name}: {value:.4f}, at least 0.998")
        ratios[f"dice {name}"] = value
    finish("predict", figures, ratios)


if __name__ == "__main__":
    main()
