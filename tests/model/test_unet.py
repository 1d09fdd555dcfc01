import numpy as np
import pytest
import tensorflow as tf

from tf_liver.experiment import ExperimentError, replace
from tf_liver.model import precision
from tf_liver.model.losses import LOSSES
from tf_liver.model.predictor import SlicePredictor
from tf_liver.model.unet import Repeat2D, build_network, load_network, segmentation_models


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_whatever_the_policy(tiny, policy):
    network = build_network(replace(tiny, precision=policy, backbone="resnet34"))
    logits = network(tf.zeros((2, 32, 64, 1)))
    assert (logits.shape, logits.dtype) == ((2, 32, 64, 1), tf.float32)
    assert network.get_layer("logits").compute_dtype == "float32"
    assert network.count_params() == pytest.approx(24.45e6, rel=0.01)
    assert {layer.momentum for layer in network.layers if "BatchNorm" in type(layer).__name__} == {0.8}


def test_an_unknown_backbone_lists_those_there_are(tiny):
    with pytest.raises(ExperimentError, match=r"backbone: must be one of .*resnet34.*Received: 'resnet35'"):
        build_network(replace(tiny, backbone="resnet35"))


def test_weights_of_another_network_are_refused_by_name(tiny, tmp_path):
    path = tmp_path / "best.weights.h5"
    build_network(replace(tiny, backbone="resnet34")).save_weights(path)
    with pytest.raises(ValueError, match=r"best\.weights\.h5: does not hold the weights of tiny"):
        load_network(tiny, str(path))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"best\.weights\.h5: is no HDF5 file"):
        load_network(tiny, str(path))


def test_reloaded_weights_give_the_same_answer(tiny, tmp_path):
    network = build_network(tiny)
    network.save_weights(tmp_path / "best.weights.h5")
    images = np.random.default_rng(0).normal(80, 60, (2, 45, 50)).astype(np.float32)
    again = load_network(tiny, str(tmp_path / "best.weights.h5"))
    expected = SlicePredictor(network, tiny)(images).numpy()
    assert expected.shape == (2, 45, 50)
    np.testing.assert_array_equal(SlicePredictor(again, tiny)(images).numpy(), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pixels_are_repeated_bit_for_bit_as_the_library_does(dtype):
    images = tf.cast(np.random.default_rng(0).normal(0, 1, (2, 3, 5, 7)), dtype)
    expected = tf.keras.layers.UpSampling2D(2, dtype=dtype)(images)
    np.testing.assert_array_equal(Repeat2D(dtype=dtype)(images).numpy(), expected.numpy())


def test_gradients_of_repeated_pixels_are_the_librarys():
    images = tf.constant(np.random.default_rng(0).normal(0, 1, (2, 3, 5, 7)).astype(np.float32))
    found = []
    for layer in (tf.keras.layers.UpSampling2D(2, dtype="float32"), Repeat2D(dtype="float32")):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(layer(images) ** 3 * tf.range(7.0))
        found.append(tape.gradient(loss, images).numpy())
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_borders_are_added_by_convolutions_where_that_is_the_same(tiny):
    """All but the one before the pooling and those before strided convolutions, on whose borders sides differ."""
    left = [layer for layer in build_network(tiny).layers if isinstance(layer, tf.keras.layers.ZeroPadding2D)]
    assert len(left) == 5


def test_the_network_is_the_libraries_own(tiny, tmp_path):
    """Weights of the library's model, upsampling and all, give the same answer in ours."""
    theirs = segmentation_models.Unet(
        "resnet18", input_shape=(None, None, 1), activation="linear", encoder_weights=None
    )
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours = load_network(tiny, str(tmp_path / "theirs.weights.h5"))
    images = np.random.default_rng(0).random((2, 32, 64, 1), np.float32)
    np.testing.assert_array_equal(ours(images, training=False).numpy(), theirs(images, training=False).numpy())


@pytest.mark.slow
def test_xla_compiles_training_and_inference(tiny):
    """To the losses and logits of plain execution, but for rounding."""
    images = np.random.default_rng(0).random((8, 64, 64, 1), np.float32)
    found = []
    for compiled in (False, True):
        tf.keras.utils.set_random_seed(0)
        network = build_network(tiny)
        network.compile(tf.keras.optimizers.SGD(1e-3), LOSSES[tiny.loss], jit_compile=compiled)
        losses = [network.train_on_batch(images, images > 0.5) for _ in range(2)]
        found.append((losses, network.predict_on_batch(images)))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-4)
    np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-3)


class FakeGpu:
    name = "gpu:0"


@pytest.mark.parametrize(
    ("capabilities", "flags", "expected"),
    [
        ([(9, 0)], set(), "mixed_bfloat16"),
        ([(8, 0), (7, 5)], set(), "mixed_float16"),
        ([(6, 1)], {"amx_bf16"}, "float32"),
        ([], {"amx_bf16"}, "mixed_bfloat16"),
        ([], {"avx512_bf16"}, "float32"),
        ([], {"avx2"}, "float32"),
    ],
)
def test_auto_follows_the_hardware(monkeypatch, capabilities, flags, expected):
    gpus = [FakeGpu() for _ in capabilities]
    of = dict(zip(map(id, gpus), capabilities, strict=True))
    monkeypatch.setattr(precision.tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(
        precision.tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": of[id(gpu)]}
    )
    monkeypatch.setattr(precision, "cpu_flags", lambda: flags)
    assert precision.choose_policy("auto") == expected
    assert precision.choose_policy("float32") == "float32"
