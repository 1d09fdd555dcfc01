"""2.5-D through the signatures and over the wire: whole scans are seen with neighbours, single slices alone."""

import numpy as np
import pytest
import tensorflow as tf

from tf_liver.experiment import replace
from tf_liver.model.predictor import AveragedSlices, SlicePredictor
from tf_liver.serving.bundle import write_bundle
from tf_liver.serving.check import read_signatures
from tf_liver.serving.client import Address, RemoteModel, ServerError
from tf_liver.serving.loader import LoadedModel
from tf_liver.serving.signature import ServedModel
from tf_liver.serving.wire import encode_slices
from tf_liver.volume.inference import segment_volume

layers = tf.keras.layers


@pytest.fixture(scope="module")
def experiment(tiny):
    return replace(tiny, neighbours=2, window_hu=(0.0, 200.0))


def two_below(experiment):
    """A predictor that paints what is bright two slices below."""
    image = layers.Input((None, None, 5))
    network = tf.keras.Model(image, layers.Conv2D(1, 1)(image))
    kernel = np.zeros((1, 1, 5, 1))
    kernel[0, 0, 0] = 20
    network.layers[-1].set_weights([kernel, np.array([-10.0])])
    return SlicePredictor(network, experiment)


@pytest.fixture(scope="module")
def scan():
    """More than two batches, (Z, H, W) int16 HU, dark or bright."""
    return np.random.default_rng(0).integers(0, 2, (37, 32, 32)).astype(np.int16) * 200


def expected_of(scan):
    return scan[np.clip(np.arange(len(scan)) - 2, 0, None)] > 100


@pytest.mark.parametrize("size", [0, 32])
@pytest.mark.parametrize("runs", [1, 2])
def test_volumes_have_neighbours_and_single_slices_stand_for_their_own(experiment, scan, size, runs):
    one = two_below(replace(experiment, image_size=size))
    served = ServedModel(one if runs == 1 else AveragedSlices([one, one]), native=size == 0).signatures()
    np.testing.assert_array_equal(served["volume"](volume=tf.constant(scan))["label"], expected_of(scan))
    alone = served["serve_int16"](image=tf.constant(scan))
    np.testing.assert_array_equal(alone["label"], scan > 100)
    pngs = served["serve_encoded"](image_bytes=tf.constant(encode_slices(scan[:3])))["label_bytes"].numpy()
    found = [tf.io.decode_png(png)[..., 0].numpy() for png in pngs]
    np.testing.assert_array_equal(found, scan[:3] > 100)


class Direct:
    """A way to ask that needs no server."""

    def __init__(self, predictor, metadata):
        self._volume = ServedModel(predictor, native=False).signatures()["volume"]
        self._metadata, self.asked = metadata, []

    def labels(self, slices):
        self.asked.append(len(slices))
        return self._volume(volume=tf.constant(slices))["label"].numpy()

    def describe(self):
        return self._metadata


def test_a_scan_cut_into_requests_keeps_its_neighbours(experiment, scan):
    remote = RemoteModel(Address("grpc://localhost:1"))
    remote._transport, remote._request_bytes = Direct(two_below(experiment), {"neighbours": 2}), 16 * scan[0].nbytes
    remote.describe()
    np.testing.assert_array_equal(remote.segment(scan), expected_of(scan))
    assert remote._transport.asked == [20, 20, 9]
    np.testing.assert_array_equal(segment_volume(remote, scan), expected_of(scan))


def test_rest_says_that_it_carries_no_neighbours():
    remote = RemoteModel(Address("http://localhost:1"))
    remote._transport = type("", (), {"describe": lambda _: {"neighbours": 1}})()
    with pytest.raises(ServerError, match="REST carries single slices"):
        remote.describe()


@pytest.mark.slow
def test_an_export_is_checked_with_neighbours_and_says_so(experiment, scan, tmp_path):
    folder = write_bundle(two_below(experiment), experiment, tmp_path, scan[:8])
    model = LoadedModel(folder, read_signatures(folder))
    np.testing.assert_array_equal(model.run("volume", {"volume": scan})["label"], expected_of(scan))
    assert '"neighbours": 2' in (folder / "metadata.json").read_text()
