"""What happens around training: checkpoints, a stop on NaN, progress with the wait for input, pictures."""

import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tf_liver.experiment import Experiment
from tf_liver.runs import Run
from tf_liver.volume.overlay import overlay

MONITOR = "val_dice"
PLATEAU_EPOCHS = 5
OVERLAYS = 4


class TimedModel(tf.keras.Model):
    """A Keras model that also measures how long its steps waited for their batch."""

    waited_s = 0.0
    train_function: Any

    def make_train_function(self, force: bool = False) -> Any:
        """Return Keras' train function, with the batch taken outside of it, where the clock can see it."""
        if self.train_function is None or force:
            step = tf.function(self._distributed_step, reduce_retracing=True)  # the last batch may be smaller

            def train(iterator: Any) -> dict[str, tf.Tensor]:
                start = time.perf_counter()
                batch = next(iterator)
                self.waited_s += time.perf_counter() - start
                return step(batch)

            self.train_function = train
        return self.train_function

    def _distributed_step(self, batch: Any) -> dict[str, tf.Tensor]:
        self._train_counter.assign_add(1)
        outputs = self.distribute_strategy.run(self.train_step, args=(batch,))
        return {k: self.distribute_strategy.experimental_local_results(v)[0] for k, v in outputs.items()}


class Checkpoints(tf.keras.callbacks.Callback):
    """Keeps the last weights and those of the best validation Dice, each file whole or not there."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.best, self.best_epoch = -np.inf, 0
        self._run = run

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        # The weights that the last step left have no training loss yet: validation is what shows them.
        for name in ("loss", "val_loss", MONITOR):
            require_finite(logs[name], name, f"after epoch {epoch + 1}")
        self.save("last")
        if logs[MONITOR] > self.best:
            self.best, self.best_epoch = logs[MONITOR], epoch + 1
            self.save("best")

    def save(self, which: str) -> None:
        """Write the model's weights as the run's `best` or `last`."""
        with self._run.replacing_checkpoint(which) as beside:
            self.model.save_weights(beside)


class StopOnNaN(tf.keras.callbacks.Callback):
    """Ends training at the first loss that is not a number, before a checkpoint could hold it."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        require_finite(logs["loss"], "loss", f"at step {batch + 1} of its epoch")


def require_finite(value: float, name: str, when: str) -> None:
    """Raise FloatingPointError for a loss or score that is not a number."""
    if not np.isfinite(value):
        raise FloatingPointError(
            f"training stopped {when}: the {name} must be finite. Received: {value}. "
            "The checkpoints before it are kept; a lower --learning-rate or --precision float32 may help"
        )


class Progress(tf.keras.callbacks.Callback):
    """A bar within an epoch where somebody looks, and a line after each epoch for everybody."""

    def __init__(self, epochs: int, slices_per_epoch: int) -> None:
        super().__init__()
        self._epochs, self._slices = epochs, slices_per_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        steps = self.params["steps"]
        show = sys.stderr.isatty()
        self._bar = tqdm(total=steps, desc=f"epoch {epoch + 1}", unit="step", leave=False, disable=not show)
        self._begin, self._trained = time.perf_counter(), 0.0
        self.model.waited_s = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self._trained = time.perf_counter() - self._begin
        self._bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self._bar.close()
        logs["slices_per_s"] = self._slices / self._trained
        logs["input_wait"] = self.model.waited_s / self._trained
        print(
            f"epoch {epoch + 1:>{len(str(self._epochs))}}/{self._epochs}"
            f"  loss {logs['loss']:.4f}  dice {logs['dice']:.4f}"
            f"  val_loss {logs['val_loss']:.4f}  val_dice {logs[MONITOR]:.4f}"
            f"  {logs['slices_per_s']:.1f} slices/s  input wait {logs['input_wait']:.0%}"
            f"  {time.perf_counter() - self._begin:.0f} s",
            flush=True,
        )


class Overlays(tf.keras.callbacks.Callback):
    """Writes a few validation slices with both contours to TensorBoard after each epoch."""

    def __init__(self, run: Run, validation: tf.data.Dataset) -> None:
        super().__init__()
        self._images, self._masks = next(iter(validation.unbatch().batch(OVERLAYS)))
        self._writer = tf.summary.create_file_writer(str(run.path / "tensorboard" / "overlays"))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logits = self.model(self._images, training=False)
        pictures = [
            overlay(image[..., 0], mask[..., 0] > 0, logit[..., 0] >= 0)
            for image, mask, logit in zip(self._images.numpy(), self._masks.numpy(), logits.numpy(), strict=True)
        ]
        with self._writer.as_default(step=epoch):
            tf.summary.image("reference green, prediction magenta", np.stack(pictures), max_outputs=OVERLAYS)
        self._writer.flush()


def all_callbacks(
    run: Run, experiment: Experiment, checkpoints: Checkpoints, slices: int, validation: tf.data.Dataset
) -> list[tf.keras.callbacks.Callback]:
    """Return the callbacks of a training run, in the order in which they must be called."""
    chosen = [
        StopOnNaN(),
        Progress(experiment.epochs, slices),
        checkpoints,
        tf.keras.callbacks.CSVLogger(str(run.path / "log.csv")),
        tf.keras.callbacks.TensorBoard(str(run.path / "tensorboard"), write_graph=False),
        Overlays(run, validation),
    ]
    if experiment.early_stopping:
        chosen.append(tf.keras.callbacks.EarlyStopping(MONITOR, mode="max", patience=experiment.early_stopping))
    if experiment.schedule == "plateau":
        chosen.append(tf.keras.callbacks.ReduceLROnPlateau(MONITOR, mode="max", factor=0.5, patience=PLATEAU_EPOCHS))
    return chosen
