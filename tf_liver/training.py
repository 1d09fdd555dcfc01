"""The loop: steps in groups, between them a look at loss, clock and signals, and a state to go on from."""

import contextlib
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import tensorflow as tf

from tf_liver.callbacks import steering
from tf_liver.command import WorkerGoneError
from tf_liver.data.pipeline import data_error
from tf_liver.data.source import Source
from tf_liver.experiment import Experiment
from tf_liver.history import MONITOR, Row, best_row, write_log
from tf_liver.model.steps import Steps
from tf_liver.runs import Run
from tf_liver.state import State, StateError, newest_state, remove_leftovers, save_state
from tf_liver.strategy import Cluster


class Training:
    """A training that can stop at any step and go on as if it had not."""

    def __init__(
        self,
        run: Run,
        identity: dict[str, Any],
        experiment: Experiment,
        network: tf.keras.Model,
        cluster: Cluster,
        source: Source,
        xla: bool = False,
    ) -> None:
        if xla and cluster.replicas > 1:
            raise ValueError(f"--xla: needs one device; --strategy none takes one. Received: {cluster.replicas}")
        self.run, self.experiment, self.cluster, self.source = run, experiment, cluster, source
        self.network, self.steps = network, Steps(network, cluster.strategy, experiment.averaging, xla)
        # Their memory is in no state: it is what they make of the epochs so far, which `go_on` tells them again.
        self._steering = tf.keras.callbacks.CallbackList(steering(experiment), model=network)
        self.state = State(identity, names=[variable.name for variable in self.steps.variables()])
        self.ended = ""  # how: done, stalled, out of time, interrupted
        self._folder = run.path / "checkpoints"
        self._saved = time.monotonic()

    def recall(self) -> None:
        """Go back to the newest whole state of the run; where there is none, begin, and save that.

        Raises:
            StateError: the states are damaged, or of another network or experiment.
        """
        with _named_errors(self.cluster):
            self._recall()

    def _recall(self) -> None:
        found = newest_state(self._folder) if self.cluster.is_chief else None
        self.cluster.anybody([False])  # the chief may have had to set a damaged one aside
        found = found or newest_state(self._folder)
        self._agree(found)
        if found is None:
            if (self.run.path / "log.csv").exists():
                raise StateError(f"{self.run.path}: the run has been trained, but its states are gone")
            self._save()
            return
        found.check(self.state.facts, self.state.names, [tuple(v.shape) for v in self.steps.variables()])
        self.steps.write(found.arrays, self.cluster.is_chief)
        self.state = found
        if self.cluster.is_chief:
            remove_leftovers(self._folder)
        self._publish()  # a kill may have fallen between the state and what follows from it

    def _agree(self, found: State | None) -> None:
        """Refuse workers that do not read the same state: their run folders are not one."""
        own = [found.epoch + 1.0, float(found.step)] if found else [0.0, 0.0]
        if self.cluster.total(own) != [number * self.cluster.workers for number in own]:
            raise StateError(f"{self.run.path}: all workers must see this folder, with one state in it")

    def go_on(
        self, deadline: float, save_minutes: float, callbacks: Sequence[tf.keras.callbacks.Callback] = ()
    ) -> None:
        """Train until the epochs are done, patience or time is over, or somebody interrupts; `ended` says which.

        deadline: on time.monotonic's clock. save_minutes: how often the state is saved within an epoch; after one
        it always is. callbacks: the chief's only; epochs, groups of steps and rows are told as Keras tells them.

        Raises:
            FloatingPointError: a loss or score that is not a number; it is in no checkpoint.
            DataError: a file that cannot be read any more; the message names it.
            MemoryError: which setting to lower.
        """
        state, total = self.state, self.source.steps
        batches = self.source.training(start=state.epoch * total + state.step, shard=self.cluster.shard)
        iterator = iter(self.cluster.distributed(batches))
        self._steer_again()
        with Signals() as signals, _named_errors(self.cluster), self._told(callbacks) as told:
            while not self._finished():
                told.on_epoch_begin(state.epoch)
                while state.step < total and not self.ended:
                    told.on_train_batch_begin(state.step)
                    loss = self._train(iterator, min(self.cluster.steps_per_look, total - state.step))
                    told.on_train_batch_end(state.step - 1, {"loss": loss})
                    self._look(signals, deadline, save_minutes)
                if not self.ended:
                    row = self._end_epoch()
                    told.on_epoch_end(state.epoch - 1, dict(row))
                    if not self._finished():
                        self._look(signals, deadline, save_minutes)

    @contextlib.contextmanager
    def _told(self, callbacks: Sequence[tf.keras.callbacks.Callback]) -> Iterator[tf.keras.callbacks.CallbackList]:
        """Give the chief's callbacks, or nobody's, from the beginning to the end of their training."""
        chiefs = list(callbacks) if self.cluster.is_chief else []
        epochs = self.experiment.epochs
        told = tf.keras.callbacks.CallbackList(chiefs, model=self.steps.judged, epochs=epochs, steps=self.source.steps)
        told.on_train_begin()
        try:
            yield told
        finally:
            told.on_train_end()

    def _steer_again(self) -> None:
        """Bring learning rate and patience to where the epochs so far have brought them."""
        self.network.stop_training = False
        if self.experiment.schedule != "cosine":
            self.network.optimizer.learning_rate = self.experiment.learning_rate
        self._steering.on_train_begin()
        for row in self.state.rows:
            self._steering.on_epoch_end(int(row["epoch"]), dict(row))

    def _finished(self) -> bool:
        """Return whether nothing is left to do."""
        if self.ended:
            return True
        if self.state.epoch >= self.experiment.epochs:
            self.ended = "done"
        elif self.network.stop_training:
            self.ended = "stalled"
        return bool(self.ended)

    def _train(self, training: Iterator[Any], number: int) -> float:
        """Take some steps; return the epoch's mean loss so far."""
        begin = time.perf_counter()
        self.state.waited_s += float(self.steps.train(training, tf.constant(number)))
        loss = self.steps.loss()
        self.state.trained_s += time.perf_counter() - begin
        self.state.step += number
        require_finite(loss, "loss", f"at step {self.state.step} of epoch {self.state.epoch + 1}")
        return loss

    def _look(self, signals: "Signals", deadline: float, save_minutes: float) -> None:
        """Save or stop if it is time to, all workers together; the chief's clock counts."""
        now, chief = time.monotonic(), self.cluster.is_chief
        due = chief and now - self._saved > 60 * save_minutes
        late = chief and now > deadline
        due, late, interrupted = self.cluster.anybody([due, late, signals.received])
        if interrupted or late:
            self.ended = "interrupted" if interrupted else "out of time"
        if due or self.ended:
            self._save()

    def _end_epoch(self) -> Row:
        """Validate, and keep what the epoch came to."""
        state, results = self.state, self.steps.results()
        validation = self.cluster.distributed(self.source.validation(shard=self.cluster.shard))
        self.steps.validate(iter(validation), tf.constant(self.source.validation_steps))
        results |= {f"val_{name}": value for name, value in self.steps.results().items()}
        # The weights that the last step left have no training loss yet: validation is what shows them.
        for name in ("loss", "val_loss", MONITOR):
            require_finite(results[name], name, f"after epoch {state.epoch + 1}")
        speed = {"slices_per_s": self.source.slices / state.trained_s, "input_wait": state.waited_s / state.trained_s}
        row = {"epoch": state.epoch, **results, "learning_rate": self.steps.rate(), **speed}
        state.rows.append(row)
        state.epoch, state.step, state.waited_s, state.trained_s = state.epoch + 1, 0, 0.0, 0.0
        self._save()
        self._publish()
        self._steering.on_epoch_end(state.epoch - 1, dict(row))
        return row

    def _save(self) -> None:
        self._saved = time.monotonic()
        self.state.arrays = self.steps.read()
        for name, array in zip(self.state.names, self.state.arrays, strict=True):
            # A step's loss is that of the weights before it: those after it may be spoilt all the same.
            require_finite(array.sum(), name, f"at step {self.state.step} of epoch {self.state.epoch + 1}")
        if self.cluster.is_chief:
            save_state(self._folder, self.state)

    def _publish(self) -> None:
        """Write what follows from a state at the end of an epoch: the log, and its weights as `last`, and `best`."""
        state = self.state
        if not state.rows:
            return
        if self.cluster.is_chief:
            write_log(self.run.path / "log.csv", state.rows)
        if state.step == 0:
            self.save_weights("last")
            if best_row(state.rows) is state.rows[-1]:
                self.save_weights("best")

    def save_weights(self, which: str) -> None:
        """Write the weights as the run's `best` or `last`; all workers must call it together."""
        kept = self.steps.judged
        alone = tf.keras.Model(kept.inputs, kept.outputs)  # without the optimizer: a third of the size
        if self.cluster.is_chief:
            with self.run.replacing_checkpoint(which) as beside:
                alone.save_weights(beside)
        else:  # to read averages over all workers takes all workers
            with tempfile.TemporaryDirectory() as folder:
                alone.save_weights(Path(folder) / ".weights.h5")


def require_finite(value: float, name: str, when: str) -> None:
    """Raise FloatingPointError for a loss or score that is not a number."""
    if not np.isfinite(value):
        raise FloatingPointError(
            f"training stopped {when}: the {name} must be finite. Received: {value}. "
            "The checkpoints before it are kept; a lower --learning-rate or --precision float32 may help"
        )


@contextlib.contextmanager
def _named_errors(cluster: Cluster) -> Iterator[None]:
    """Turn what TensorFlow raises into our own errors."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError("out of memory; a lower --batch-size or --image-size needs less") from error
    except tf.errors.OpError as error:
        named = data_error(error)
        if isinstance(named, MemoryError) and "lower" not in str(named):
            named = MemoryError(f"out of memory; a lower --batch-size or --image-size needs less ({named})")
        if cluster.workers > 1 and named is error:  # collectives fail in several ways when somebody has gone
            kind = type(error).__name__
            raise WorkerGoneError(f"another worker is gone ({kind}); start all again with --run to go on") from error
        raise named from error


class Signals:
    """Notes Ctrl-C and SIGTERM instead of breaking off in the middle of something; a second Ctrl-C breaks off.

    A second SIGTERM does not: a scheduler sends it to us and to the command that started us, which hands it on.
    """

    received = False

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True
