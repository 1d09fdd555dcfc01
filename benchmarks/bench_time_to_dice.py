"""Seconds of training until the held-out Dice is 0.90: a plain script, MONAI, and this project's best_cpu.

    .venv/bin/python benchmarks/bench_time_to_dice.py [--quick] [--seeds 0 1 2] [--limit 900] [--data …/Task03_Liver]

Real scans (TF_LIVER_REAL_DATA), fold 0: the liver slices of its training cases train, and every `--every` steps the
whole held-out scan is segmented at the network's size, brought back to its own grid, and its Dice over all voxels is
taken. The clock is stopped meanwhile, and runs from just before the first step (tracing and warming up count) to the
first Dice of 0.90 or more; who does not get there is given the limit. Decoding the scans counts for nobody: ours reads
its prepared store, the others begin with all slices in memory, already resized. They rotate and flip, use batches of 8,
an HU window, Dice + cross-entropy and Adam at 1e-3; ours does all of it as its experiment says. float32 or bfloat16,
whichever a user of each would get with a line. Every contestant is a process of its own, the seeds
are interleaved, medians are reported. MONAI takes part where `make bench-peers` has made its environment.
"""

import argparse
import ast
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import PEERS, finish, run, say

BATCH, WORKERS, RATE, WINDOW_HU = 8, 2, 1e-3, (-100, 250)
TARGET, BAR = 0.90, 3.0


class Watch:
    """Seconds of training, without the looks at the held-out scan."""

    def __init__(self, held_out: np.ndarray, segment: Callable[[], np.ndarray], options: argparse.Namespace) -> None:
        self._labels, self._segment, self._options = held_out, segment, options
        self.steps, self.seconds, self.dice, self.curve = 0, 0.0, 0.0, list[tuple[float, float]]()
        self._since = time.perf_counter()

    def step_done(self, steps: int = 1) -> bool:
        """Return whether to stop: the held-out Dice is reached, or the limit."""
        self.steps += steps
        if self.steps % self._options.every:
            return False
        self.seconds += time.perf_counter() - self._since
        predicted = self._segment()
        self.dice = 2 * float((predicted & self._labels).sum()) / float(predicted.sum() + self._labels.sum())
        self.curve.append((round(self.seconds, 1), round(self.dice, 4)))
        self._since = time.perf_counter()
        return self.dice >= TARGET or self.seconds >= self._options.limit

    def result(self) -> dict[str, Any]:
        reached = self.dice >= TARGET
        seconds = self.seconds if reached else self._options.limit
        best = max((dice for _, dice in self.curve), default=0.0)
        return {"seconds": seconds, "reached": reached, "steps": self.steps, "best": best, "curve": self.curve}


def on_own_grid(probability: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mask of probabilities (n, S, S) on a grid of (n, H, W)."""
    import cv2

    return np.stack([cv2.resize(one, shape[:0:-1], interpolation=cv2.INTER_LINEAR) for one in probability]) >= 0.5


def arrays(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return images (n, S, S) in [0, 1] and masks (n, S, S) that train, images held out, and the mask of those."""
    import cv2

    low, high = WINDOW_HU
    with np.load(folder / "fold.npz") as found:
        scaled = [
            (np.clip(found[name], low, high) - low).astype(np.float32) / (high - low) for name in ("train", "held")
        ]
        images, held = (np.stack([cv2.resize(one, (size, size)) for one in many]) for many in scaled)
        masks = [cv2.resize(one, (size, size), interpolation=cv2.INTER_NEAREST) for one in found["train_labels"]]
        return images, np.stack(masks).astype(np.float32), held, found["held_labels"] > 0


def plain(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """segmentation_models in float32, model.fit, and a generator of albumentations over arrays in memory."""
    os.environ.update(TF_USE_LEGACY_KERAS="1", SM_FRAMEWORK="tf.keras", NO_ALBUMENTATIONS_UPDATE="1")
    import albumentations as A
    import segmentation_models as sm
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    images, masks, held, labels = arrays(options.folder, options.size)
    augment = A.Compose([A.Rotate(limit=15, p=0.5), A.HorizontalFlip(), A.VerticalFlip()])
    rng = np.random.default_rng(seed)

    def generate() -> Any:
        while True:
            for n in rng.permutation(len(images)):
                sample = augment(image=images[n], mask=masks[n])
                yield sample["image"][..., None], sample["mask"][..., None]

    model = sm.Unet("resnet34", input_shape=(None, None, 1), classes=1, encoder_weights=None)
    model.compile(tf.keras.optimizers.Adam(RATE), sm.losses.bce_dice_loss)
    signature = (tf.TensorSpec((options.size, options.size, 1)),) * 2
    batches = tf.data.Dataset.from_generator(generate, output_signature=signature).batch(BATCH).prefetch(2)

    def segment() -> np.ndarray:
        return on_own_grid(model.predict(held[..., None], BATCH, verbose=0)[..., 0], labels.shape)

    class Stop(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = watch.step_done()

    watch = Watch(labels, segment, options)
    model.fit(batches, steps_per_epoch=1_000_000, callbacks=[Stop()], verbose=0)
    return watch.result()


def ours(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """This project's own steps from its store, as the experiment says."""
    from tf_liver.data.cases import choose_split, find_cases
    from tf_liver.data.nifti import read_label, read_volume
    from tf_liver.data.source import open_source
    from tf_liver.experiment import replace

    experiment = experiment_of(options)
    split = choose_split(find_cases(options.data), experiment.folds, options.fold)
    scans = [read_volume(case.image).slices.astype(np.float32) for case in split.held_out]
    labels = np.concatenate([read_label(case.label).slices > 0 for case in split.held_out])
    import tensorflow as tf

    from tf_liver.model.precision import choose_policy
    from tf_liver.model.predictor import SlicePredictor
    from tf_liver.model.steps import Steps
    from tf_liver.model.unet import build_network, compile_network
    from tf_liver.strategy import choose_cluster
    from tf_liver.volume.inference import segment_volume

    tf.keras.utils.set_random_seed(seed)
    experiment = replace(experiment, precision=choose_policy(experiment.precision))
    cluster = choose_cluster("none")
    with open_source(options.data, options.folder / "prepared", split, experiment, seed, WORKERS) as source:
        network = build_network(experiment)
        compile_network(network, experiment, source.steps, seed)
        steps = Steps(network, cluster.strategy, experiment.averaging)
        predictor = SlicePredictor(steps.judged, experiment)
        total = source.steps * experiment.epochs

        def segment() -> np.ndarray:
            return np.concatenate([segment_volume(predictor, scan) for scan in scans]) > 0

        watch = Watch(labels, segment, options)
        batches = iter(cluster.distributed(source.training(start=0, shard=(0, 1))))
        while watch.steps < total:
            number = min(options.every, total - watch.steps)
            float(steps.train(batches, tf.constant(number)))
            if watch.step_done(number):
                break
    return watch.result()


def monai(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """MONAI's UNet as in its tutorials, CacheDataset, DiceCELoss."""
    import monai.transforms as T
    import torch
    from monai.data import CacheDataset, DataLoader
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet
    from monai.utils import set_determinism

    set_determinism(seed, use_deterministic_algorithms=False)
    keys = ["image", "label"]
    images, masks, held, labels = arrays(options.folder, options.size)
    augment = T.Compose(
        [
            T.EnsureChannelFirstd(keys, channel_dim="no_channel"),
            T.EnsureTyped(keys, track_meta=False),
            T.RandRotated(keys, range_x=0.26, prob=0.5, mode=("bilinear", "nearest"), padding_mode="zeros"),
            T.RandFlipd(keys, prob=0.5, spatial_axis=0),
            T.RandFlipd(keys, prob=0.5, spatial_axis=1),
        ]
    )
    items = [{"image": image, "label": mask} for image, mask in zip(images, masks, strict=True)]
    dataset: Any = CacheDataset(items, augment, num_workers=WORKERS, progress=False)
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=options.monai_workers,
        persistent_workers=options.monai_workers > 0,
    )
    model: Any = UNet(2, 1, 1, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2, norm="batch")
    loss_of, optimizer = DiceCELoss(sigmoid=True), torch.optim.Adam(model.parameters(), RATE)
    kind, half = torch.bfloat16, options.monai_bfloat16

    @torch.no_grad()
    def segment() -> np.ndarray:
        model.eval()
        parts = [torch.from_numpy(held[n : n + BATCH, None]) for n in range(0, len(held), BATCH)]
        with torch.autocast("cpu", kind, enabled=half):
            found = torch.cat([model(part).float().sigmoid()[:, 0] for part in parts])
        model.train()
        return on_own_grid(found.numpy(), labels.shape)

    watch = Watch(labels, segment, options)
    while True:
        for batch in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", kind, enabled=half):
                logits = model(batch["image"])
            loss = loss_of(logits.float(), batch["label"])
            loss.backward()
            optimizer.step()
            if watch.step_done():
                return watch.result()


CONTESTANTS: dict[str, Callable[[argparse.Namespace, int], dict[str, Any]]] = {
    "plain": plain,
    "monai": monai,
    "ours": ours,
}


def experiment_of(options: argparse.Namespace) -> Any:
    """Return the project's experiment, with overrides."""
    from tf_liver.experiment import load, replace

    changes = dict(text.split("=", 1) for text in options.override)
    values = {name: ast.literal_eval(text) if text[0] in "-(.0123456789" else text for name, text in changes.items()}
    return replace(load(options.experiment), **values)


def write_fold(options: argparse.Namespace, experiment: Any) -> None:
    """Write the slices of the fold for those who begin with them in memory."""
    from tf_liver.data.cases import choose_split, find_cases
    from tf_liver.data.nifti import read_label, read_volume

    split = choose_split(find_cases(options.data), experiment.folds, options.fold)
    say(f"held out: {', '.join(case.case_id for case in split.held_out)}")
    found: dict[str, np.ndarray] = {}
    for name, cases in (("train", split.train), ("held", split.held_out)):
        labels = np.concatenate([read_label(case.label).slices for case in cases])
        images = np.concatenate([read_volume(case.image).slices for case in cases]).astype(np.int16)
        chosen = labels.any(axis=(1, 2)) if name == "train" else slice(None)
        found |= {name: images[chosen], f"{name}_labels": (labels[chosen] > 0).astype(np.uint8)}
    np.savez(options.folder / "fold.npz", **found)


def main() -> None:
    """Run the seeds, or one contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    real = Path(os.environ.get("TF_LIVER_REAL_DATA", "")) / "Task03_Liver"
    parser.add_argument("--quick", action="store_true", help="one seed, 6 s each: shows that it works, and no more")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=float, default=900, help="seconds of training after which one has failed")
    parser.add_argument("--every", type=int, default=10, help="steps between two looks at the held-out scan")
    parser.add_argument("--experiment", default="best_cpu")
    parser.add_argument("--override", nargs="*", default=[], metavar="FIELD=VALUE", help="of the experiment")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--data", type=Path, default=real)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--monai-workers", type=int, default=WORKERS)
    parser.add_argument("--monai-bfloat16", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("data/bench"), help="where slices are kept meanwhile")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.limit = options.seeds[:1], 6.0
    if options.only:
        name, seed = options.only
        with contextlib.redirect_stdout(sys.stderr):
            result = CONTESTANTS[name](options, int(seed))
        print(json.dumps(result))
        return
    if not options.data.is_dir():
        parser.error(f"--data: real scans are needed, here or in TF_LIVER_REAL_DATA. Received: {options.data}")
    options.data, options.folder = options.data.resolve(), options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    experiment = experiment_of(options)
    write_fold(options, experiment)
    say(f"{experiment.name} at {experiment.image_size}², batch {experiment.batch_size}, {experiment.epochs} epochs")
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for name in options.contestants:
            if name == "monai" and not PEERS.exists():
                continue
            argv = [str(PEERS) if name == "monai" else sys.executable, __file__, "--only", name, str(seed)]
            argv += ["--size", str(experiment.image_size), "--limit", str(options.limit), "--every", str(options.every)]
            argv += ["--experiment", options.experiment, "--fold", str(options.fold), "--data", str(options.data)]
            argv += ["--folder", str(options.folder), "--monai-workers", str(options.monai_workers)]
            argv += ["--monai-bfloat16"] * options.monai_bfloat16 + ["--override", *options.override]
            result = run(argv, watch=False)
            found.setdefault(name, []).append(result)
            say(
                f"seed {seed}: {name} {'reached' if result['reached'] else 'NOT REACHED'} {result['seconds']:.1f} s, "
                f"{result['steps']} steps, best Dice {result['best']:.4f}"
            )
    report(found)


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table, the bars and the last line."""
    figures: dict[str, Any] = {}
    print(f"{'':8}{'median s':>10}{'reached':>10}{'median steps':>14}{'seconds of each seed':>30}")
    for name, results in found.items():
        seconds = [round(result["seconds"], 1) for result in results]
        reached, steps = sum(r["reached"] for r in results), statistics.median(r["steps"] for r in results)
        figures[name] = {"seconds": statistics.median(seconds), "reached": reached, "of": len(results), "steps": steps}
        figures[name] |= {"all_seconds": seconds, "curves": [result["curve"] for result in results]}
        all_reached = f"{reached}/{len(results)}"
        print(f"{name:8}{figures[name]['seconds']:10.1f}{all_reached:>10}{steps:14.0f}{seconds!s:>30}")
    ratios = {}
    for other in ("plain", "monai"):
        if other in figures and "ours" in figures:
            ratio = ratios[f"{other}/ours"] = figures[other]["seconds"] / figures["ours"]["seconds"]
            there = figures["ours"]["reached"] > len(found["ours"]) / 2
            least = "at least " * (figures[other]["reached"] <= len(found[other]) / 2)
            verdict = "met" if there and ratio >= BAR else "NOT MET"
            print(f"bar {other}/ours: {least}{ratio:.2f}, at least {BAR:g}: {verdict}")
    finish("time_to_dice", figures, ratios)


if __name__ == "__main__":
    main()
