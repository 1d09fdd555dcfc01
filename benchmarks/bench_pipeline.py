"""Slices a second into training: a plain hand-written pipeline, this project's, and MONAI's.

    .venv/bin/python benchmarks/bench_pipeline.py [--quick] [--rounds 3] [--seconds 12] [--cases 8]

All read the same synthetic 512² scans and do the same: resize to 256², rotate, flip, batches of 16. Every
contestant is a process of its own (so that its memory is its own), the rounds are interleaved, medians are
reported. MONAI takes part where `make bench-peers` has made its environment; it is given slices that lie on disk
already, as .npy files, and may cache them after the resize.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common import PEERS, finish, medians, run, say

SIZE, BATCH, WORKERS = 256, 16, 2


def measure(batches: Iterable[Any], seconds: float, size_of: Callable[[Any], int] = len) -> dict[str, float]:
    """Count slices for some time; the clock starts after the first batch."""
    iterator = iter(batches)
    next(iterator)
    slices, start = 0, time.perf_counter()
    for batch in iterator:
        slices += size_of(batch)
        if time.perf_counter() - start > seconds:
            break
    return {"slices_per_s": slices / (time.perf_counter() - start)}


def plain(data: Path, _: Path, seconds: float) -> dict[str, float]:
    """The generator that a user would start from: nibabel's get_fdata, from_generator, albumentations in a map."""
    import albumentations as A
    import nibabel as nib
    import numpy as np
    import tensorflow as tf

    augment = A.Compose([A.Resize(SIZE, SIZE), A.Rotate(limit=15, p=0.5), A.HorizontalFlip(), A.VerticalFlip()])

    def generate() -> Any:
        while True:
            for path in sorted((data / "imagesTr").glob("*.nii.gz")):
                image = nib.load(path).get_fdata()
                label = nib.load(data / "labelsTr" / path.name).get_fdata()
                for z in range(image.shape[2]):
                    mask = label[:, :, z].T > 0
                    if mask.any():
                        one = np.maximum(image[:, :, z].T, 0)
                        yield (one / max(one.max(), 1)).astype(np.float32), mask.astype(np.float32)

    def apply(image: Any, mask: Any) -> Any:
        sample = augment(image=image, mask=mask)
        return sample["image"], sample["mask"]

    signature = (tf.TensorSpec((None, None), tf.float32),) * 2
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    dataset = dataset.map(lambda i, m: tf.numpy_function(apply, (i, m), (tf.float32, tf.float32)))
    return measure(dataset.batch(BATCH).prefetch(2), seconds, lambda batch: batch[0].shape[0])


class Plain:
    """The reference form in the place of WarpAugmenter: a slice a call, every transform by itself."""

    neighbours = 0

    def __init__(self, experiment: Any) -> None:
        from tf_liver.data.augment import Augmenter

        self._experiment = experiment
        self._augmenter = Augmenter(experiment.augmentation, SIZE)

    def __reduce__(self) -> Any:
        return Plain, (self._experiment,)

    def batch(self, samples: Any, number: int, out: Any = None) -> Any:
        """Fill a batch as WarpAugmenter does."""
        import numpy as np

        from tf_liver.data.slices import foreground, normalise

        images, masks = out or (np.empty((number, SIZE, SIZE, 1), np.float32), np.empty((number, SIZE, SIZE, 1), "u1"))
        for n, ((image,), label, seed) in enumerate(samples):
            hu, mask = normalise(image, self._experiment), foreground(label).astype(np.uint8)
            images[n, ..., 0], masks[n, ..., 0] = self._augmenter(hu, mask, seed)
        return images, masks


def ours(data: Path, prepared: Path, seconds: float, way: str) -> dict[str, float]:
    """This project: streaming, from the store in albumentations' plain form, from the store with one warp a slice."""
    from tf_liver.data import pipeline
    from tf_liver.data.build import default_folder, prepare
    from tf_liver.data.cases import find_cases
    from tf_liver.data.index import index_labels
    from tf_liver.data.store import SliceStore
    from tf_liver.experiment import load, replace

    experiment = replace(load("baseline"), image_size=SIZE, batch_size=BATCH, epochs=10_000)
    cases = find_cases(data)
    if way == "stream":
        batches = pipeline.streamed_batches(index_labels(cases, WORKERS), experiment, 0, WORKERS)
        return measure(batches, seconds, lambda batch: batch[0].shape[0])

    if way == "store_plain":
        pipeline.WarpAugmenter = Plain  # type: ignore[assignment, misc]
    folder = default_folder(data, prepared)
    prepare(cases, folder, WORKERS)
    store = SliceStore(folder, cases[:2] if way == "store_fast_2_cases" else cases)
    with pipeline.training_loader(store, experiment, WORKERS) as load:
        batches = pipeline.stored_batches(store, experiment, 0, WORKERS, load=load)
        return measure(batches, seconds, lambda batch: batch[0].shape[0])


def monai(data: Path, prepared: Path, seconds: float, persistent: bool) -> dict[str, float]:
    """MONAI's CacheDataset or PersistentDataset over slices on disk, PyTorch's DataLoader, two workers."""
    import monai.transforms as T
    from monai.data import CacheDataset, DataLoader, PersistentDataset

    keys = ["image", "label"]
    items = [
        {"image": str(path), "label": str(path).replace("image", "label")}
        for path in sorted((data / "slices").glob("*image.npy"))
    ]
    steps = T.Compose(
        [
            T.LoadImaged(keys, reader="NumpyReader"),
            T.EnsureChannelFirstd(keys, channel_dim="no_channel"),
            T.ThresholdIntensityd("image", 0, above=True, cval=0),
            T.ScaleIntensityd("image"),
            T.Resized(keys, (SIZE, SIZE), mode=("bilinear", "nearest")),
            T.RandRotated(keys, range_x=0.26, prob=0.5, mode=("bilinear", "nearest"), padding_mode="zeros"),
            T.RandFlipd(keys, prob=0.5, spatial_axis=0),
            T.RandFlipd(keys, prob=0.5, spatial_axis=1),
        ]
    )
    dataset: Any
    if not persistent:
        dataset = CacheDataset(items, steps, num_workers=WORKERS, progress=False)
    else:
        dataset = PersistentDataset(items, steps, cache_dir=data / "monai")
        for n in range(len(items)):  # the first pass writes the cache
            dataset[n]
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)

    def epochs() -> Any:
        while True:
            yield from loader

    return measure(epochs(), seconds, lambda batch: batch["image"].shape[0])


def build(data: Path, prepared: Path, _: float) -> dict[str, float]:
    """Seconds to prepare all cases with two processes, and to gunzip them with isal in one; medians of three."""
    import shutil

    from tf_liver.data.build import default_folder, prepare
    from tf_liver.data.cases import find_cases

    cases = find_cases(data)
    paths = [p for case in cases for p in (case.image, case.label)]
    folder = default_folder(data, prepared / "build")
    rounds = []
    for _round in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        decoded, gunzip = gunzip_all(paths)
        start = time.perf_counter()
        prepare(cases, folder, WORKERS, say=lambda _: None)
        seconds = time.perf_counter() - start
        rounds.append(
            {
                "gunzip_mb_per_s": decoded / gunzip / 1e6,
                "prepare_mb_per_s_and_core": decoded / seconds / WORKERS / 1e6,
                "prepare_s": seconds,
                "store_mb": sum(p.stat().st_size for p in folder.iterdir()) / 1e6,
                "prepare_over_gunzip": gunzip / seconds / WORKERS,
            }
        )
    shutil.rmtree(folder)
    return medians(rounds)


def gunzip_all(paths: list[Path]) -> tuple[int, float]:
    """Return how many bytes isal's own reader decompressed into one buffer, and the seconds it took."""
    from isal import igzip

    buffer, decoded, start = bytearray(1 << 22), 0, time.perf_counter()
    for path in paths:
        with igzip.open(path) as stream:
            while read := stream.readinto(buffer):
                decoded += read
    return decoded, time.perf_counter() - start


def access(data: Path, prepared: Path, _: float) -> dict[str, float]:
    """Milliseconds to read one random slice from the store."""
    import numpy as np

    from tf_liver.data.build import default_folder
    from tf_liver.data.cases import find_cases
    from tf_liver.data.index import liver_samples
    from tf_liver.data.store import SliceStore

    store = SliceStore(default_folder(data, prepared), find_cases(data))
    rows = np.random.default_rng(0).permutation(liver_samples(store.index))
    start = time.perf_counter()
    for case, z, _ in rows:
        store.read(int(case), int(z))
    return {"random_slice_ms": (time.perf_counter() - start) / len(rows) * 1000}


CONTESTANTS: dict[str, Callable[[Path, Path, float], dict[str, float]]] = {
    "plain": plain,
    "stream": lambda *a: ours(*a, way="stream"),
    "store_plain": lambda *a: ours(*a, way="store_plain"),
    "store_fast": lambda *a: ours(*a, way="store_fast"),
    "monai_cache": lambda *a: monai(*a, persistent=False),
    "monai_persistent": lambda *a: monai(*a, persistent=True),
}
OTHERS: dict[str, Callable[[Path, Path, float], dict[str, float]]] = {
    "build": build,
    "access": access,
    "store_fast_2_cases": lambda *a: ours(*a, way="store_fast_2_cases"),
}
# What issue 3 of this project asked for: (figure, at least, aim).
BARS = [
    ("store_fast/plain", 40, 80),
    ("store_plain/plain", 12, 20),
    ("stream/plain", 3, 5),
    ("store_fast/monai_cache", 5, 10),
    ("plain/store_fast peak memory", 1, 2),
    ("prepare/gunzip per core", 0.6, 0.85),
    ("1 ms/one random slice", 1, 1),
]


def make_scans(folder: Path, cases: int) -> Path:
    """Write the synthetic scans once, and their liver slices as .npy for MONAI.

    A phantom of 512² is cut into slices six times as thin, with noise of their own, and lengthened by liver-free
    slices until a third of all shows liver, as in Task03_Liver (19,163 of 58,638): about 320 slices a scan.
    """
    data = folder / f"scans-{cases}"
    if (data / "done").exists():
        return data
    import nibabel as nib
    import numpy as np

    from tf_liver.data.phantom import make_phantom

    for kind in (data / "imagesTr", data / "labelsTr", data / "slices"):
        kind.mkdir(parents=True, exist_ok=True)
    for number in range(cases):
        rng = np.random.default_rng((0, number))
        phantom = make_phantom(rng, size=512, vary=0.0)
        image, label = (v.repeat(6, axis=2) for v in (phantom.voxels, phantom.labels))
        more = max(0, 3 * int((label > 0).any(axis=(0, 1)).sum()) - label.shape[2])
        image = np.concatenate([image, image[..., :1].repeat(more, axis=2)], axis=2)
        label = np.concatenate([label, np.zeros((512, 512, more), np.uint8)], axis=2)
        image += rng.normal(0, 8, image.shape).astype(np.int16)
        affine = phantom.affine @ np.diag([1, 1, 1 / 6, 1])
        name = f"phantom_{number:02}"
        nib.Nifti1Image(image, affine).to_filename(data / "imagesTr" / f"{name}.nii.gz")
        nib.Nifti1Image(label, affine).to_filename(data / "labelsTr" / f"{name}.nii.gz")
        for z in np.flatnonzero((label > 0).any(axis=(0, 1))):
            np.save(data / "slices" / f"{name}-{z:03}-image.npy", image[..., z].T)
            np.save(data / "slices" / f"{name}-{z:03}-label.npy", (label[..., z].T > 0).astype(np.uint8))
        say(f"wrote {name}: {label.shape[2]} slices")
    (data / "done").touch()
    return data


def main() -> None:
    """Run the rounds, or one contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round over two scans")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12, help="of each contestant in each round")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("data/bench"), help="where the synthetic scans are kept")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.cases = 1, 3.0, 2
    options.folder = options.folder.resolve()  # contestants run in the repository's root
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.only:
        import contextlib

        data = options.folder / f"scans-{options.cases}"
        with contextlib.redirect_stdout(sys.stderr):
            result = {**CONTESTANTS, **OTHERS}[options.only](data, options.folder, options.seconds)
        print(json.dumps(result))
        return
    make_scans(options.folder, options.cases)
    names = [n for n in CONTESTANTS if not n.startswith("monai") or PEERS.exists()]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in [*OTHERS, *names]}
    for number in range(options.rounds):
        for name in ["store_fast", *OTHERS, *names] if number == 0 else [*OTHERS, *names]:
            say(f"round {number + 1}/{options.rounds}: {name}")
            python = str(PEERS) if name.startswith("monai") else sys.executable
            argv = [python, __file__, "--only", name, "--folder", str(options.folder)]
            argv += ["--seconds", str(options.seconds), "--cases", str(options.cases)]
            # Looking at memory costs time, and preparing keeps both cores busy.
            result = run(argv, os.environ, watch=name != "build")
            rounds[name].append(result)
    rounds["store_fast"].pop(0)  # it prepared the store
    report(names, {name: medians(results) for name, results in rounds.items()})


def report(names: list[str], figures: dict[str, dict[str, float]]) -> None:
    """Print the table and the last line."""
    base = figures["plain"]
    print(f"{'':18} slices/s  over plain  peak MB")
    for name in names:
        f = figures[name]
        ratio = f["slices_per_s"] / base["slices_per_s"]
        print(f"{name:18} {f['slices_per_s']:8.0f} {ratio:10.1f}× {f['peak_mb']:8.0f}")
    b = figures["build"]
    print(
        f"prepare: {b['prepare_s']:.1f} s, {b['store_mb']:.0f} MB on disk, "
        f"{b['prepare_mb_per_s_and_core']:.0f} MB/s and core, {b['prepare_over_gunzip']:.2f} of isal's gunzip; "
        f"one random slice: {figures['access']['random_slice_ms']:.2f} ms"
    )
    ratios = {f"{n}/plain": figures[n]["slices_per_s"] / base["slices_per_s"] for n in names if n != "plain"}
    for peer in ("monai_cache", "monai_persistent"):
        if peer in names:
            ratios[f"store_fast/{peer}"] = figures["store_fast"]["slices_per_s"] / figures[peer]["slices_per_s"]
    ratios["plain/store_fast peak memory"] = base["peak_mb"] / figures["store_fast"]["peak_mb"]
    ratios["peak memory all cases/2 cases"] = (
        figures["store_fast"]["peak_mb"] / figures["store_fast_2_cases"]["peak_mb"]
    )
    ratios["prepare/gunzip per core"] = b["prepare_over_gunzip"]
    ratios["1 ms/one random slice"] = 1 / figures["access"]["random_slice_ms"]
    for name, least, aim in BARS:
        if name in ratios:
            verdict = "aim met" if ratios[name] >= aim else "met" if ratios[name] >= least else "NOT MET"
            print(f"bar {name:30} {ratios[name]:6.2f}  at least {least}, aim {aim}: {verdict}")
    print(f"peak memory with all cases over that with 2: {ratios['peak memory all cases/2 cases']:.2f}")
    finish("pipeline", figures, ratios)


if __name__ == "__main__":
    main()
