"""tf.data: shuffled slices become augmented batches, from the prepared store or straight from NIfTI.

Both ways train on the same samples: which slices, and each one's augmentation, are decided in `epoch_samples` by
seed and epoch alone, whatever the number of workers.

    store    batch number → its slices → one warp each → batch, whole batches in parallel → prefetch
    stream   cases (shuffled) → generators that decode and warp, interleaved → shuffle → batch → prefetch
"""

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from tf_liver.data import DataError
from tf_liver.data.augment import WarpAugmenter
from tf_liver.data.index import SliceIndex, epoch_samples, liver_samples, steps_per_epoch
from tf_liver.data.loader import Batch, LoaderProcesses, SliceLoader
from tf_liver.data.nifti import check_same_grid, read_label, read_volume
from tf_liver.data.slices import neighbourhood
from tf_liver.data.store import SliceStore
from tf_liver.experiment import Experiment

# Streaming only. Volumes open at once and samples waiting in the shuffle: for 512² scans and 256² samples about
# 4 × 0.3 GB and 0.1 GB.
OPEN_VOLUMES = 4
SHUFFLE_SLICES = 256
PREFETCH_BATCHES = 4


def stored_batches(
    store: SliceStore,
    experiment: Experiment,
    seed: int,
    workers: int,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    load: Callable[[np.ndarray], Batch] | None = None,
) -> tf.data.Dataset:
    """Return the training batches of all epochs, one after the other, from a prepared store.

    start: the batch to begin with, counted over all epochs, to go on where a training was cut off.
    shard: (position, number of shards): every shard gets its part of each global batch, by position.
    load: what loads batches; by default this process does, `training_loader` gives processes that do.
    Elements: images (B, S, S, 2n + 1) float32 and masks (B, S, S, 1) uint8, 0 and 1 or, for the task tumour, labels 0
    to 2; cardinality is known.
    """
    index = store.index
    steps = steps_per_epoch(index, experiment.negative_ratio, experiment.batch_size, experiment.tumour_ratio)

    @functools.lru_cache(2)
    def samples(epoch: int) -> np.ndarray:
        return epoch_samples(index, experiment.negative_ratio, seed, epoch, experiment.tumour_ratio)

    def rows(number: int) -> np.ndarray:
        # Parts that differ by one slice at most: no batch is a leftover too small for its batch statistics, or
        # for every shard to get some.
        return np.array_split(samples(number // steps), steps)[number % steps][shard[0] :: shard[1]]

    load = load or SliceLoader(store, WarpAugmenter(experiment))
    numbers = tf.data.Dataset.range(start, experiment.epochs * steps)
    return _loaded(numbers, rows, load, experiment, workers)


@contextmanager
def training_loader(store: SliceStore, experiment: Experiment, workers: int) -> Iterator[Callable[[np.ndarray], Batch]]:
    """Give what loads training batches: with several workers, processes that end with the context."""
    loader = SliceLoader(store, WarpAugmenter(experiment))
    if workers == 1 or not experiment.image_size:  # native slices have no common size that memory could be shared for
        yield loader
        return
    processes = LoaderProcesses(loader, workers, experiment.batch_size, experiment.image_size)
    try:
        yield processes
    finally:
        processes.close()


def stored_validation(store: SliceStore, experiment: Experiment, shard: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """Return the liver slices in fixed order, only resized; elements and `shard` as in `stored_batches`."""
    index = store.index
    samples = liver_samples(index)

    def rows(number: int) -> np.ndarray:
        return samples[number * experiment.batch_size :][: experiment.batch_size][shard[0] :: shard[1]]

    load = SliceLoader(store, WarpAugmenter(experiment, policy="resize"))
    numbers = tf.data.Dataset.range(steps_per_epoch(index, 0.0, experiment.batch_size))
    return _loaded(numbers, rows, load, experiment, workers=1)


def _loaded(
    numbers: tf.data.Dataset,
    rows: Callable[[int], np.ndarray],
    load: Callable[[np.ndarray], Batch],
    experiment: Experiment,
    workers: int,
) -> tf.data.Dataset:
    """Turn batch numbers into batches, `workers` at a time, in order."""
    specs = sample_specs(experiment)

    def batch(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, masks = tf.numpy_function(
            lambda n: load(rows(int(n))), (number,), (tf.float32, tf.uint8), stateful=False
        )
        for part, spec in zip((images, masks), specs, strict=True):
            part.set_shape((None, *spec.shape))  # NumPy's functions hide their shapes
        return images, masks

    batches = numbers.map(batch, num_parallel_calls=workers, deterministic=True)
    return batches.prefetch(PREFETCH_BATCHES)


def streamed_batches(
    index: SliceIndex,
    experiment: Experiment,
    seed: int,
    workers: int,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Return the training batches of all epochs straight from the scans; elements and arguments as in `stored_batches`.

    To start within an epoch, what comes before in it is decoded and thrown away; every shard decodes everything.
    """
    steps = steps_per_epoch(index, experiment.negative_ratio, experiment.batch_size, experiment.tumour_ratio)
    augmenter = WarpAugmenter(experiment)

    def samples(epoch: int) -> np.ndarray:
        return epoch_samples(index, experiment.negative_ratio, seed, epoch, experiment.tumour_ratio)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        cases = tf.random.experimental.stateless_shuffle(tf.range(len(index.cases), dtype=tf.int64), (seed, epoch))
        slices = tf.data.Dataset.from_tensor_slices(cases).interleave(
            lambda case: _stream(index, augmenter, samples, case, epoch, experiment),
            cycle_length=OPEN_VOLUMES,
            block_length=1,
            num_parallel_calls=min(workers, OPEN_VOLUMES),
            deterministic=True,
        )
        # One seed for all epochs: what comes in is already in another order in each.
        return _batched(slices.shuffle(SHUFFLE_SLICES, seed, reshuffle_each_iteration=False), experiment)

    epochs = tf.data.Dataset.range(start // steps, experiment.epochs).flat_map(one_epoch).skip(start % steps)
    total = max(0, experiment.epochs * steps - start)
    return dealt(epochs.apply(tf.data.experimental.assert_cardinality(total)), shard).prefetch(PREFETCH_BATCHES)


def streamed_validation(index: SliceIndex, experiment: Experiment, shard: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """Return the liver slices in fixed order, only resized, straight from the scans."""
    augmenter = WarpAugmenter(experiment, policy="resize")
    slices = tf.data.Dataset.range(len(index.cases)).flat_map(
        lambda case: _stream(index, augmenter, lambda _: liver_samples(index), case, 0, experiment)
    )
    total = steps_per_epoch(index, 0.0, experiment.batch_size)
    batches = _batched(slices, experiment).apply(tf.data.experimental.assert_cardinality(total))
    return dealt(batches, shard).prefetch(PREFETCH_BATCHES)


def dealt(batches: tf.data.Dataset, shard: tuple[int, int], replicas: int = 1) -> tf.data.Dataset:
    """Deal each batch out by position: one shard's part of it, and of that a part to each replica, one by one."""
    position, shards = shard
    if shards * replicas == 1:
        return batches
    firsts = tf.data.Dataset.from_tensor_slices([position + n * shards for n in range(replicas)])
    every = shards * replicas
    return batches.flat_map(lambda images, masks: firsts.map(lambda n: (images[n::every], masks[n::every])))


def _stream(
    index: SliceIndex,
    augmenter: WarpAugmenter,
    samples: Callable[[int], np.ndarray],
    case: tf.Tensor,
    epoch: tf.Tensor | int,
    experiment: Experiment,
) -> tf.data.Dataset:
    """Return one case's finished samples in one epoch, as `sample_specs` says."""

    def generate(case: np.ndarray, epoch: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for sample in case_slices(index, int(case), samples(int(epoch)), experiment.neighbours):
            images, masks = augmenter.batch([sample], 1)
            yield images[0], masks[0]

    return tf.data.Dataset.from_generator(generate, args=(case, epoch), output_signature=sample_specs(experiment))


def sample_specs(experiment: Experiment) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    """Return what a sample is: image (S, S, 2n + 1) float32 with n neighbours on each side, mask (S, S, 1) uint8."""
    side, channels = experiment.image_size or None, 2 * experiment.neighbours + 1
    return tf.TensorSpec((side, side, channels), tf.float32), tf.TensorSpec((side, side, 1), tf.uint8)


def case_slices(
    index: SliceIndex, number: int, samples: np.ndarray, neighbours: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Decode one case once and yield its slices among `samples`: HU, label map and augmentation seed.

    HU: (2n + 1, height, width), the slice with its neighbours, as `SliceStore.read` gives it.
    """
    own = samples[samples[:, 0] == number]
    if not len(own):
        return
    case = index.cases[number]
    image, label = read_volume(case.image), read_label(case.label)
    check_same_grid(image, label, case.label)
    for _, z, seed in own:
        several = neighbourhood(z, z + 1, neighbours, len(image.slices))
        yield np.ascontiguousarray(image.slices[several]), np.ascontiguousarray(label.slices[z]), int(seed)


def _batched(slices: tf.data.Dataset, experiment: Experiment) -> tf.data.Dataset:
    """Batch samples; the last batch may be smaller."""
    if experiment.image_size:
        return slices.batch(experiment.batch_size)
    # Native sizes differ between cases: a batch is padded to its largest slice with background.
    return slices.padded_batch(experiment.batch_size)


def data_error(error: Exception) -> Exception:
    """Return the error that a function inside tf.data raised; TensorFlow wraps it and adds its traceback."""
    if found := re.search(r"(\w*Error): (.+)", str(error)):
        return (MemoryError if found[1] == "MemoryError" else DataError)(found[2])
    return error
