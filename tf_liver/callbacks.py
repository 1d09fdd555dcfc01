"""Keras callbacks: what slows and stops a training, and what tells of it."""

import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_liver.data import REGIONS
from tf_liver.data.slices import THRESHOLD
from tf_liver.data.source import Source
from tf_liver.experiment import Experiment
from tf_liver.history import MONITOR
from tf_liver.model.regions import region_probability
from tf_liver.runs import Run
from tf_liver.volume.overlay import overlay

PLATEAU_EPOCHS = 5
PLATEAU_FACTOR = 0.5
OVERLAYS = 4
TAGS = ("reference green, prediction magenta", "tumour: reference green, prediction magenta")


def steering(experiment: Experiment) -> list[tf.keras.callbacks.Callback]:
    """Return what lowers the learning rate and ends the training; all they remember are the epochs they were told."""
    found: list[tf.keras.callbacks.Callback] = []
    if experiment.schedule == "plateau":
        found.append(
            tf.keras.callbacks.ReduceLROnPlateau(MONITOR, PLATEAU_FACTOR, PLATEAU_EPOCHS, mode="max", min_delta=1e-4)
        )
    if experiment.early_stopping:
        found.append(tf.keras.callbacks.EarlyStopping(MONITOR, patience=experiment.early_stopping, mode="max"))
    return found


def telling(run: Run, source: Source) -> list[tf.keras.callbacks.Callback]:
    """Return what shows a training: on the screen and in the run's tensorboard/."""
    board = str(run.path / "tensorboard")
    return [
        Progress(),
        tf.keras.callbacks.TensorBoard(board, write_graph=False, profile_batch=0),
        Overlays(f"{board}/overlays", source.validation()),
    ]


class Progress(tf.keras.callbacks.Callback):
    """A bar within an epoch where somebody looks, and a line after each epoch for everybody."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        hidden, steps = not sys.stderr.isatty(), self.params["steps"]
        self._bar = tqdm(total=steps, desc=f"epoch {epoch + 1}", unit="step", leave=False, disable=hidden)
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self._bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)
        self._bar.update(batch + 1 - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self._bar.close()
        epochs = self.params["epochs"]
        print(
            f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"
            f"  loss {logs['loss']:.4f}  dice {logs['dice']:.4f}"
            f"  val_loss {logs['val_loss']:.4f}  val_dice {logs[MONITOR]:.4f}{self._of_regions(logs)}"
            f"  {logs['slices_per_s']:.1f} slices/s  input wait {logs['input_wait']:.0%}"
            f"  {time.perf_counter() - self._begin:.0f} s",
            flush=True,
        )

    @staticmethod
    def _of_regions(logs: dict[str, float]) -> str:
        return "".join(
            f" ({name} {logs[f'val_{name}_dice']:.4f})" for name in REGIONS["tumour"] if f"val_{name}_dice" in logs
        )


class Overlays(tf.keras.callbacks.Callback):
    """Writes a few validation slices with both contours to TensorBoard after each epoch."""

    def __init__(self, folder: str, validation: tf.data.Dataset) -> None:
        super().__init__()
        self._images, self._masks = next(iter(validation.unbatch().batch(OVERLAYS)))
        self._middle = self._images.shape[-1] // 2  # the slice itself, between its neighbours
        self._writer = tf.summary.create_file_writer(folder)

    def set_model(self, model: tf.keras.Model) -> None:
        super().set_model(model)
        # On this worker's own replicas: outside of them, averages would be asked of all workers.
        strategy, images = model.distribute_strategy, self._images
        self._logits = tf.function(lambda: strategy.run(model, (images,), {"training": False}))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logits: Any = self.model.distribute_strategy.experimental_local_results(self._logits())[0]
        probability = region_probability(logits).numpy()
        with self._writer.as_default(step=epoch):
            for n, tag in enumerate(TAGS[: probability.shape[-1]]):
                pictures = [
                    overlay(image[..., self._middle], label[..., 0] > n, found[..., n] >= THRESHOLD)
                    for image, label, found in zip(self._images.numpy(), self._masks.numpy(), probability, strict=True)
                ]
                tf.summary.image(tag, np.stack(pictures), max_outputs=OVERLAYS)
        self._writer.flush()
