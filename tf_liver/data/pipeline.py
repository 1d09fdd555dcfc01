"""tf.data: slices stream from NIfTI files into augmented batches.

Order: cases (shuffled) → generators, interleaved → shuffle → normalise and augment → batch → prefetch.
Every sample's augmentation is seeded by what it is (seed, epoch, case, slice), not by when it comes, so the
samples are the same whatever the number of workers.
"""

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tf_liver.data import DataError, DataWarning
from tf_liver.data.augment import Augmenter
from tf_liver.data.cases import Case
from tf_liver.data.nifti import check_same_grid, read_label, read_volume
from tf_liver.data.slices import foreground, normalise, positive_slices
from tf_liver.experiment import Experiment
from tf_liver.progress import track

# Volumes open at once and slices waiting in the shuffle: with 512² slices of float32 and their masks, about
# 4 × 0.2 GB and 0.3 GB.
OPEN_VOLUMES = 4
SHUFFLE_SLICES = 256


@dataclass(frozen=True)
class SliceIndex:
    """Which slices of which cases hold foreground."""

    cases: tuple[Case, ...]
    positives: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return sum(len(p) for p in self.positives)


def index_slices(cases: Sequence[Case], workers: int) -> SliceIndex:
    """Read every label once and note its liver-positive slices.

    Raises:
        DataError: a label that cannot be read, or no positive slice in any case.
    """

    def positives(case: Case) -> np.ndarray:
        return positive_slices(read_label(case.label).slices)

    with ThreadPoolExecutor(workers) as pool:
        found = tuple(track(pool.map(positives, cases), "reading labels", len(cases)))
    for case, chosen in zip(cases, found, strict=True):
        if not len(chosen):
            warnings.warn(f"{case.label}: case {case.case_id} holds no liver; it adds no slices", DataWarning, 2)
    index = SliceIndex(tuple(cases), found)
    if not len(index):
        raise DataError(
            f"{cases[0].label.parent}: training needs a slice with liver. Received: {len(cases)} cases, none"
        )
    return index


def steps_per_epoch(index: SliceIndex, batch_size: int) -> int:
    """Return the number of batches in one pass, the last and smaller one included."""
    return math.ceil(len(index) / batch_size)


def training_batches(index: SliceIndex, experiment: Experiment, seed: int, workers: int) -> tf.data.Dataset:
    """Return all epochs, one after the other, shuffled and augmented anew in each.

    Elements: images (B, S, S, 1) float32 and masks (B, S, S, 1) float32; cardinality is known.
    """
    augmenter = Augmenter(experiment.augmentation, experiment.image_size)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        slices = _slices(index, experiment, seed, epoch, shuffle=True)
        # One seed for all epochs: what comes in is already in another order in each.
        slices = slices.shuffle(SHUFFLE_SLICES, seed=seed, reshuffle_each_iteration=False)
        return _batches(slices, augmenter, experiment, workers)

    epochs = tf.data.Dataset.range(experiment.epochs).flat_map(one_epoch)
    total = experiment.epochs * steps_per_epoch(index, experiment.batch_size)
    return epochs.apply(tf.data.experimental.assert_cardinality(total)).prefetch(4)


def validation_batches(index: SliceIndex, experiment: Experiment, workers: int) -> tf.data.Dataset:
    """Return one pass in fixed order, only resized; elements as in `training_batches`."""
    slices = _slices(index, experiment, 0, tf.constant(0, tf.int64), shuffle=False)
    batches = _batches(slices, Augmenter("resize", experiment.image_size), experiment, workers)
    total = steps_per_epoch(index, experiment.batch_size)
    return batches.apply(tf.data.experimental.assert_cardinality(total)).prefetch(2)


def data_error(error: Exception) -> Exception:
    """Return the DataError that a generator raised inside tf.data, which wraps it and adds its traceback."""
    found = re.search("DataError: (.+)", str(error))
    return DataError(found[1]) if found else error


def _slices(index: SliceIndex, experiment: Experiment, seed: int, epoch: tf.Tensor, shuffle: bool) -> tf.data.Dataset:
    """Return single samples: normalised image (H, W), mask (H, W), and the sample's own seed."""

    def generate(case: np.ndarray, epoch: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.int64]]:
        yield from case_slices(index, int(case), experiment, (seed, int(epoch)), shuffle)

    def stream(case: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_generator(
            generate,
            args=(case, epoch),
            output_signature=(
                tf.TensorSpec((None, None), tf.float32),
                tf.TensorSpec((None, None), tf.uint8),
                tf.TensorSpec((), tf.int64),
            ),
        )

    cases = tf.range(len(index.cases), dtype=tf.int64)
    if not shuffle:
        return tf.data.Dataset.from_tensor_slices(cases).flat_map(stream)
    cases = tf.random.experimental.stateless_shuffle(cases, (seed, epoch))
    return tf.data.Dataset.from_tensor_slices(cases).interleave(
        stream, cycle_length=OPEN_VOLUMES, block_length=1, num_parallel_calls=OPEN_VOLUMES, deterministic=True
    )


def case_slices(
    index: SliceIndex, number: int, experiment: Experiment, seeds: tuple[int, int], shuffle: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.int64]]:
    """Decode one case once and yield its positive slices, normalised, with mask and augmentation seed."""
    case, chosen = index.cases[number], index.positives[number]
    if not len(chosen):
        return
    image, label = read_volume(case.image), read_label(case.label)
    check_same_grid(image, label, case.label)
    rng = np.random.default_rng((*seeds, number))
    augment_seeds = rng.integers(2**31, size=len(chosen))
    for k in rng.permutation(len(chosen)) if shuffle else range(len(chosen)):
        mask = foreground(label.slices[chosen[k]])
        yield normalise(image.slices[chosen[k]], experiment), mask.astype(np.uint8), augment_seeds[k]


def _batches(slices: tf.data.Dataset, augmenter: Augmenter, experiment: Experiment, workers: int) -> tf.data.Dataset:
    """Augment single samples and batch them; the last batch may be smaller."""

    def augment(image: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, mask = tf.numpy_function(
            lambda i, m, s: augmenter(i, m, int(s)),
            (image, mask, seed),
            (tf.float32, tf.uint8),
            stateful=False,
        )
        size = experiment.image_size or None
        image.set_shape((size, size))
        mask.set_shape((size, size))
        return image[..., tf.newaxis], tf.cast(mask, tf.float32)[..., tf.newaxis]

    samples = slices.map(augment, num_parallel_calls=workers, deterministic=True)
    # Native sizes differ between cases: a batch is padded to its largest slice with background.
    return (
        samples.padded_batch(experiment.batch_size)
        if not experiment.image_size
        else samples.batch(experiment.batch_size)
    )
