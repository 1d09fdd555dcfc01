"""Encoders that begin with weights of three-channel pictures, and what is said where there are none."""

import re
import socket

import numpy as np
import pytest
import tensorflow as tf

from tf_liver.experiment import ExperimentError, replace
from tf_liver.model.folding import folded
from tf_liver.model.predictor import ScanPredictor, SlicePredictor
from tf_liver.model.pretrained import IMAGENET, _mixture, _preprocessing, encoder_weights
from tf_liver.model.unet import build_network, load_network, segmentation_models

# The smallest of each family; how they see colours: as they come (two), mirrored with a mean, in [-1, 1], standardised.
RESNET, SERESNET, VGG, MOBILE, DENSE = "resnet18", "seresnet18", "vgg16", "mobilenetv2", "densenet121"
OTHER_FAMILIES = ["resnext50", "seresnet50", "seresnext50", "inceptionv3", "inceptionresnetv2"]
OTHER_FAMILIES += ["mobilenet", "efficientnetb0"]


def encoder_of(backbone, weights=None):
    """Return the library's own three-channel encoder; random weights and unsettled statistics where none are given."""
    from segmentation_models.backbones.backbones_factory import Backbones

    modules = {name: getattr(tf.keras, name) for name in ("backend", "layers", "models", "utils")}
    encoder = Backbones.get_backbone(
        backbone, input_shape=(None, None, 3), weights=weights, include_top=False, **modules
    )
    if weights:
        return encoder
    rng = np.random.default_rng(0)
    for layer in encoder.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return encoder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A machine without network, with nothing in Keras' folder."""

    def refuse(*_, **__):
        raise OSError("the network is asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


def features(network, name, inputs):
    """Return what the layer `name`, or the encoder's own last layer of that name, gives."""
    return tf.keras.Model(network.input, network.get_layer(name).output)(inputs, training=False).numpy()


def last_of(network, encoder):
    """Return the name of the deepest layer of the same name and weights; some names count on from one to another."""

    def same(layer):
        pairs = zip(layer.get_weights(), network.get_layer(layer.name).get_weights(), strict=False)
        return layer.weights and all(np.array_equal(one, other) for one, other in pairs)

    own = {layer.name for layer in network.layers}
    return [layer.name for layer in encoder.layers if layer.name in own and same(layer)][-1]


@pytest.mark.parametrize(
    ("backbone", "neighbours"),
    [(RESNET, 0), *(pytest.param(b, n, marks=pytest.mark.slow) for b in (RESNET, VGG, MOBILE, DENSE) for n in (1, 2))],
)
def test_a_grey_slice_gives_the_features_of_the_three_channel_network(tiny, tmp_path, backbone, neighbours):
    """And so do equal neighbours; under the library's own preprocessing of pictures from 0 to 255."""
    encoder, path = encoder_of(backbone), tmp_path / "encoder.h5"
    encoder.save_weights(path)
    changes = {"backbone": backbone, "encoder_weights": str(path), "neighbours": neighbours}
    network = build_network(replace(tiny, **changes))
    assert network.input_shape == (None, None, None, 2 * neighbours + 1)
    images = np.random.default_rng(1).random((2, 64, 96, 1)).astype(np.float32)
    name = last_of(network, encoder)
    picture = segmentation_models.get_preprocessing(backbone)(255.0 * images.repeat(3, axis=-1))
    expected = features(encoder, name, picture.astype(np.float32))
    found = features(network, name, images.repeat(2 * neighbours + 1, axis=-1))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert expected.std() > 0


@pytest.mark.parametrize("backbone", [RESNET, VGG, MOBILE, DENSE])
def test_colours_are_the_librarys_own_preprocessing(backbone):
    images = np.random.default_rng(0).random((2, 4, 4, 3))
    kernel, bias = _preprocessing(backbone)
    expected = segmentation_models.get_preprocessing(backbone)(255 * images)
    np.testing.assert_allclose(images @ kernel + bias, expected, atol=1e-4)


@pytest.mark.parametrize("neighbours", range(4))
def test_colours_are_means_and_the_slice_itself_is_green(neighbours):
    mixture = _mixture(neighbours)
    assert mixture.shape == (2 * neighbours + 1, 3)
    np.testing.assert_allclose(mixture.sum(axis=0), 1)
    assert mixture[neighbours, 1] == 1
    if neighbours:
        assert not mixture[: neighbours + 1, 2].any()
        assert not mixture[neighbours:, 0].any()


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "encoder.h5"
    encoder_of(RESNET).save_weights(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_trained_network_is_loaded_without_the_weights_it_began_with(
    tiny, tmp_path, encoder_file, offline, precision
):
    experiment = replace(tiny, encoder_weights=str(encoder_file), neighbours=2, precision=precision)
    network = build_network(experiment)
    network.save_weights(tmp_path / "best.weights.h5")
    images = np.random.default_rng(0).random((2, 64, 64, 5)).astype(np.float32)
    expected = network(images, training=False).numpy()
    again = load_network(replace(experiment, encoder_weights=IMAGENET), str(tmp_path / "best.weights.h5"))
    np.testing.assert_array_equal(again(images, training=False).numpy(), expected)


def test_predict_export_and_the_folded_network_agree(tiny, encoder_file):
    experiment = replace(tiny, encoder_weights=str(encoder_file))
    network = build_network(experiment)
    images = np.random.default_rng(0).normal(50, 200, (3, 45, 50)).astype(np.float32)
    expected = SlicePredictor(network, experiment)(images).numpy()
    lean = folded(network, "float32")
    np.testing.assert_allclose(ScanPredictor(lean, experiment)(images), expected, atol=1e-3)
    assert expected.std() > 1e-3
    assert {w.dtype.name for w in folded(network, "bfloat16").get_layer("colours").weights} == {"float32"}


def test_imagenet_without_network_names_file_hash_and_place(tiny, offline):
    experiment = replace(tiny, encoder_weights=IMAGENET)
    wanted = r"resnet18_imagenet_1000_no_top\.h5 from https.*, MD5 318e3ac0cd98d51e917526c9f62f0b50, "
    with pytest.raises(ExperimentError, match=wanted + r"to be put at .*keras/models/.*none\. Received: --offline"):
        build_network(experiment, offline=True)
    with pytest.raises(ExperimentError, match=wanted + ".*Received: .*the network is asked"):
        build_network(experiment)
    place = offline / "models" / "resnet18_imagenet_1000_no_top.h5"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"another")
    with pytest.raises(ExperimentError, match="where there is another file"):
        build_network(experiment, offline=True)
    assert place.read_bytes() == b"another"


def test_imagenet_whose_hash_the_library_does_not_know_names_file_and_place_too(tiny, offline):
    """And takes what lies there, as long as it is of this encoder."""
    experiment = replace(tiny, encoder_weights=IMAGENET, backbone=MOBILE)
    wanted = r"(mobilenet_v2_\S+_no_top\.h5) from https.*, whose hash the library does not know, to be put at (\S+), "
    with pytest.raises(ExperimentError, match=wanted + r"where there is none\. Received: --offline") as caught:
        build_network(experiment, offline=True)
    name, place = re.search(wanted, str(caught.value)).groups()
    assert place == str(offline / "models" / name)
    (offline / "models").mkdir(parents=True)
    encoder = encoder_of(MOBILE)
    encoder.save_weights(place)
    network = build_network(experiment, offline=True)
    kernel = network.get_layer("Conv1").get_weights()[0]
    np.testing.assert_array_equal(kernel, encoder.get_layer("Conv1").get_weights()[0])


def test_a_file_in_keras_folder_with_the_right_hash_is_taken_without_network(tiny, offline, encoder_file, monkeypatch):
    """The library's table is given the hash of a file of ours."""
    import hashlib

    from classification_models import weights

    place = offline / "models" / "resnet18_imagenet_1000_no_top.h5"
    place.parent.mkdir(parents=True)
    place.write_bytes(encoder_file.read_bytes())
    entry = next(e for e in weights.WEIGHTS_COLLECTION if e["name"] == place.name)
    monkeypatch.setitem(entry, "md5", hashlib.md5(place.read_bytes()).hexdigest())
    with encoder_weights(replace(tiny, encoder_weights=IMAGENET), offline=True) as given:
        encoder = encoder_of(RESNET, given)
    ours = build_network(replace(tiny, encoder_weights=str(encoder_file)))
    np.testing.assert_array_equal(encoder.get_layer("conv0").kernel, ours.get_layer("conv0").kernel)


def test_other_files_are_refused_in_one_line(tiny, tmp_path, encoder_file):
    other = tmp_path / "other.h5"
    other.write_bytes(b"no HDF5")
    whole = tmp_path / "whole.h5"
    tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(1,))]).save(whole)
    for path, message in (
        (tmp_path / "nowhere.h5", "must be none, imagenet, or a file that is there. Received: "),
        (other, "must hold resnet18 without its top. Received: .* is no HDF5 file"),
        (whole, "is a whole Keras model"),
    ):
        with pytest.raises(ExperimentError, match=message) as caught:
            build_network(replace(tiny, encoder_weights=str(path)))
        assert "\n" not in str(caught.value)
    with pytest.raises(ExperimentError, match=r"encoder\.h5 must hold seresnet18 without its top"):
        build_network(replace(tiny, encoder_weights=str(encoder_file), backbone=SERESNET))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [RESNET, VGG, MOBILE, SERESNET, DENSE, *OTHER_FAMILIES])
def test_every_family_is_built_and_begins_with_a_file(tiny, tmp_path, backbone):
    """At 64², with neighbours; the encoder holds what the file holds."""
    encoder = encoder_of(backbone)
    encoder.save_weights(tmp_path / "encoder.h5")
    changes = {"neighbours": 1, "encoder_weights": str(tmp_path / "encoder.h5")}
    network = build_network(replace(tiny, backbone=backbone, **changes))
    assert network(np.zeros((1, 64, 64, 3), np.float32), training=False).shape == (1, 64, 64, 1)
    total = sum(np.abs(w).sum(dtype=np.float64) for w in encoder.get_weights())
    own = [layer for layer in network.layers if not layer.name.startswith(("decoder", "center", "colours", "logits"))]
    found = sum(np.abs(w).sum(dtype=np.float64) for layer in own[1:] for w in layer.get_weights())
    assert found == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_the_largest_family_is_built(tiny):
    """At 64²; it takes minutes, with weights from a file four times as many."""
    network = build_network(replace(tiny, backbone="senet154"))
    assert network(np.zeros((1, 64, 64, 1), np.float32), training=False).shape == (1, 64, 64, 1)
