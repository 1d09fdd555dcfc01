"""Where a training's slices come from: the prepared store, or the scans themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import tensorflow as tf

from tf_liver.data import DataError, pipeline
from tf_liver.data.build import default_folder, prepare
from tf_liver.data.cases import Split
from tf_liver.data.index import SliceIndex, epoch_length, index_labels, steps_per_epoch
from tf_liver.data.store import SliceStore
from tf_liver.experiment import Experiment


class TrainingBatches(Protocol):
    """Gives the training batches from one on, counted over all epochs; see `pipeline.stored_batches`."""

    def __call__(self, *, start: int, shard: tuple[int, int]) -> tf.data.Dataset: ...


class ValidationBatches(Protocol):
    """Gives the validation batches."""

    def __call__(self, *, shard: tuple[int, int] = (0, 1)) -> tf.data.Dataset: ...


@dataclass(frozen=True)
class Source:
    """Indices of training and held-out slices, what gives their batches, and how many there are."""

    experiment: Experiment
    train: SliceIndex
    held_out: SliceIndex
    training: TrainingBatches
    validation: ValidationBatches

    @property
    def slices(self) -> int:
        """Slices that one epoch trains on."""
        return epoch_length(self.train, self.experiment.negative_ratio, self.experiment.tumour_ratio)

    @property
    def steps(self) -> int:
        """Batches of one epoch."""
        chosen = self.experiment
        return steps_per_epoch(self.train, chosen.negative_ratio, chosen.batch_size, chosen.tumour_ratio)

    @property
    def validation_steps(self) -> int:
        """Batches of one validation."""
        return steps_per_epoch(self.held_out, 0.0, self.experiment.batch_size)

    @property
    def summary(self) -> str:
        """How many slices of how many cases train, and are held out."""
        train, held_out = len(self.train.cases), len(self.held_out.cases)
        return f"{self.slices} slices of {train} cases train, {epoch_length(self.held_out, 0.0)} of {held_out} held out"


@contextmanager
def open_source(
    data: Path, prepared: Path | None, split: Split, experiment: Experiment, seed: int, workers: int
) -> Iterator[Source]:
    """Give the slices of a split; the processes that load them end with the context.

    prepared: the folder under which slices are prepared first; None streams from the scans.
    """
    if prepared is None:
        train, held_out = (index_labels(cases, workers) for cases in (split.train, split.held_out))
        training = partial(pipeline.streamed_batches, train, experiment, seed, workers)
        yield Source(experiment, train, held_out, training, partial(pipeline.streamed_validation, held_out, experiment))
        return
    folder = default_folder(data, prepared)
    prepare([*split.train, *split.held_out], folder, workers)
    stores = SliceStore(folder, split.train), SliceStore(folder, split.held_out)
    for twin in stores[0].sources.keys() & stores[1].sources.keys():
        ours, theirs = (store.sources[twin] for store in stores)
        raise DataError(f"{data}: a scan must not both train and be held out. Received: {ours} and {theirs} alike")
    with pipeline.training_loader(stores[0], experiment, workers) as load:
        training = partial(pipeline.stored_batches, stores[0], experiment, seed, workers, load=load)
        validation = partial(pipeline.stored_validation, stores[1], experiment)
        yield Source(experiment, stores[0].index, stores[1].index, training, validation)
