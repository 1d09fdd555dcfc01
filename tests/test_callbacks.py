import numpy as np
import pytest
import tensorflow as tf

from tf_liver.callbacks import Checkpoints, TimedModel
from tf_liver.model.precision import device_line
from tf_liver.runs import Run


class CountedModel(TimedModel):
    """Counts how often its step is traced."""

    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


def test_smaller_batches_are_traced_once():
    image = tf.keras.Input((None, None, 1))
    model = CountedModel(image, tf.keras.layers.Conv2D(1, 3)(image))
    model.compile("sgd", "mse")
    sizes = [8, 8, 3, 5, 8, 1]
    batches = tf.data.Dataset.from_generator(
        lambda: ((np.zeros((n, 8, 8, 1)), np.zeros((n, 6, 6, 1))) for n in sizes),
        output_signature=(tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None, 6, 6, 1))),
    )
    model.fit(batches.take(1), verbose=0)  # traced twice: once more after the optimizer made its variables
    model.traces = 0
    model.fit(batches, verbose=0)
    assert model.traces == 1


@pytest.mark.parametrize("name", ["loss", "val_loss", "val_dice"])
def test_an_epoch_that_is_not_a_number_is_not_saved(tmp_path, name):
    logs = {"loss": 1.0, "val_loss": 1.0, "val_dice": 0.5, name: float("nan")}
    with pytest.raises(FloatingPointError, match=f"after epoch 3: the {name} must be finite"):
        Checkpoints(Run(tmp_path)).on_epoch_end(2, logs)
    assert not list(tmp_path.iterdir())


def test_the_first_gpu_alone_is_named(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [tf.config.PhysicalDevice("a", kind)] * 2)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"device_name": "H100"})
    assert device_line() == "H100"
