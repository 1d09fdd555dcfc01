"""What a training tells while it goes on: a bar and a line an epoch, and TensorBoard with pictures."""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_liver.history import MONITOR, Row
from tf_liver.runs import Run
from tf_liver.volume.overlay import overlay

OVERLAYS = 4
Listener = Callable[[Row], None]


class Progress:
    """A bar within an epoch where somebody looks, and a line after each epoch for everybody."""

    def __init__(self, epochs: int, steps: int, show: bool = True) -> None:
        self._epochs, self._steps, self._show = epochs, steps, show
        self._bar = tqdm(disable=True)

    def begin(self, epoch: int, step: int) -> None:
        """Show the bar of an epoch of which `step` steps are done."""
        hidden = not (self._show and sys.stderr.isatty())
        self._bar = tqdm(
            total=self._steps, initial=step, desc=f"epoch {epoch + 1}", unit="step", leave=False, disable=hidden
        )
        self._begin = time.perf_counter()

    def advance(self, steps: int, loss: float) -> None:
        """Move the bar; `loss` is the epoch's mean so far."""
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.update(steps)

    def end(self, row: Row) -> None:
        """Take the bar away and print the epoch's line."""
        self._bar.close()
        if not self._show:
            return
        print(
            f"epoch {int(row['epoch']) + 1:>{len(str(self._epochs))}}/{self._epochs}"
            f"  loss {row['loss']:.4f}  dice {row['dice']:.4f}"
            f"  val_loss {row['val_loss']:.4f}  val_dice {row[MONITOR]:.4f}"
            f"  {row['slices_per_s']:.1f} slices/s  input wait {row['input_wait']:.0%}"
            f"  {time.perf_counter() - self._begin:.0f} s",
            flush=True,
        )


class TensorBoard:
    """Writes each epoch's row, and a few validation slices with both contours, to the run's tensorboard/."""

    def __init__(self, run: Run, network: tf.keras.Model, validation: tf.data.Dataset) -> None:
        images, self._masks = next(iter(validation.unbatch().batch(OVERLAYS)))
        self._images, self._network, strategy = images, network, network.distribute_strategy
        # On this worker's own replicas: outside of them, averages would be asked of all workers.
        self._logits = tf.function(lambda: strategy.run(network, (images,), {"training": False}))
        self._writer = tf.summary.create_file_writer(str(run.path / "tensorboard"))

    def __call__(self, row: Row) -> None:
        logits: Any = self._network.distribute_strategy.experimental_local_results(self._logits())[0]
        pictures = [
            overlay(image[..., 0], mask[..., 0] > 0, logit[..., 0] >= 0)
            for image, mask, logit in zip(self._images.numpy(), self._masks.numpy(), logits.numpy(), strict=True)
        ]
        with self._writer.as_default(step=int(row["epoch"])):
            for name, value in row.items():
                tf.summary.scalar(name, value)
            tf.summary.image("reference green, prediction magenta", np.stack(pictures), max_outputs=OVERLAYS)
        self._writer.flush()
