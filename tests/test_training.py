"""Parts of the loop; ../tests/faults/test_training_faults.py kills whole trainings."""

import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from tf_liver.model.precision import device_line
from tf_liver.training import Signals, require_finite


def test_a_number_that_is_none_is_refused():
    require_finite(0.5, "loss", "now")
    for value in (np.nan, np.inf):
        with pytest.raises(FloatingPointError, match=r"after epoch 3: the val_loss must be finite\. Received: "):
            require_finite(value, "val_loss", "after epoch 3")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_ctrl_c_after_it_breaks_off(number):
    before = signal.getsignal(number)
    with Signals() as signals:
        assert not signals.received
        os.kill(os.getpid(), number)
        assert signals.received
        os.kill(os.getpid(), signal.SIGTERM)  # from a scheduler, by two ways
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) == before


def test_the_first_gpu_alone_is_named(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [tf.config.PhysicalDevice("a", kind)] * 2)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"device_name": "H100"})
    assert device_line() == "H100"
