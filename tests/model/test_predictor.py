"""The lean road that evaluate and predict take gives the answers of the graph that is exported."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from tf_liver.experiment import replace
from tf_liver.model.folding import folded
from tf_liver.model.predictor import (
    BATCH_SLICES,
    Averaged,
    AveragedSlices,
    Mirrored,
    ScanPredictor,
    SlicePredictor,
    load_predictor,
)
from tf_liver.model.unet import build_network
from tf_liver.volume.inference import probability_batches, segment_volume

layers = tf.keras.layers


def unsettled(network):
    """Give all that batch normalisation holds a value of its own: fresh ones would hide a mistake."""
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return network


@pytest.fixture(scope="module")
def network(tiny):
    tf.keras.utils.set_random_seed(0)
    return unsettled(build_network(tiny))


OTHER_BACKBONES = ["vgg16", "mobilenetv2", "efficientnetb0", "seresnet18", "densenet121", "resnext50", "inceptionv3"]


@pytest.mark.parametrize("backbone", ["resnet18", *(pytest.param(b, marks=pytest.mark.slow) for b in OTHER_BACKBONES)])
def test_a_folded_network_gives_the_same_logits(tiny, backbone):
    network = unsettled(build_network(replace(tiny, backbone=backbone)))
    images = np.random.default_rng(1).random((2, 64, 96, 1)).astype(np.float32)
    expected = network(images, training=False).numpy()
    lean = folded(network, "float32")
    np.testing.assert_allclose(lean(images, training=False).numpy(), expected, atol=2e-4 * np.abs(expected).max())
    assert lean.count_params() < network.count_params()


def test_folding_by_hand():
    """One pixel, one filter: y = ((2x + 1) − 3) · 4/√(0.25 + 0.75) + 5, and a normalisation that has no convolution."""
    image = layers.Input((1, 1, 1))
    inner = layers.Conv2D(1, 1, name="conv")(layers.BatchNormalization(epsilon=0.75, name="first")(image))
    network = tf.keras.Model(image, layers.BatchNormalization(epsilon=0.75, name="behind")(inner))
    network.get_layer("conv").set_weights([np.full((1, 1, 1, 1), 2.0), np.array([1.0])])
    network.get_layer("behind").set_weights([np.array([v]) for v in (4.0, 5.0, 3.0, 0.25)])
    network.get_layer("first").set_weights([np.array([v]) for v in (1.0, 0.0, 0.0, 0.25)])
    lean = folded(network, "float32")
    assert [type(layer).__name__ for layer in lean.layers[1:]] == ["BatchNormalization", "Conv2D", "Activation"]
    kernel, bias = (float(w.squeeze()) for w in lean.get_layer("conv").get_weights())
    assert (kernel, bias) == (8.0, -3.0)
    assert float(lean(tf.constant([[[[10.0]]]])).numpy().squeeze()) == 77.0


def test_what_two_layers_use_is_not_folded():
    image = layers.Input((4, 4, 1))
    inner = layers.Conv2D(1, 1)(image)
    network = unsettled(tf.keras.Model(image, layers.Add()([layers.BatchNormalization()(inner), inner])))
    images = np.random.default_rng(0).random((1, 4, 4, 1)).astype(np.float32)
    lean = folded(network, "float32")
    assert lean.count_params() == network.count_params()
    np.testing.assert_allclose(lean(images).numpy(), network(images).numpy(), atol=1e-6)


def test_a_folded_network_holds_and_computes_one_type(tiny, network):
    lean = folded(network, "bfloat16")
    images = np.random.default_rng(1).random((2, 64, 64, 1)).astype(np.float32)
    assert {w.dtype.name for w in lean.get_layer("logits").weights} == {"bfloat16"}
    apart = lean(images, training=False).numpy().astype(np.float32) - network(images, training=False).numpy()
    assert 0 < np.abs(apart).mean() < 0.1 * np.abs(network(images, training=False).numpy()).mean()


@pytest.mark.parametrize("size", [0, 32, 64])
@pytest.mark.parametrize("normalisation", ["window", "clip_max"])
@pytest.mark.parametrize("shape", [(1, 64, 64), (19, 45, 70), (2, 1, 1), (3, 128, 96)])
def test_predict_and_export_give_the_same_answers(tiny, size, normalisation, shape):
    """NumPy and OpenCV around a network, and the graph that is exported; windows off whole HU too."""
    network = tf.keras.Sequential([layers.Conv2D(1, 5, padding="same", input_shape=(None, None, 1))])
    experiment = replace(tiny, image_size=size, normalisation=normalisation, window_hu=(-99.5, 250.25))
    images = np.random.default_rng(0).integers(-1024, 1500, shape).astype(np.int16)
    expected = SlicePredictor(network, experiment)(images.astype(np.float32)).numpy()
    for given in (images, images.astype(np.float32), np.asfortranarray(images)):
        answer = ScanPredictor(folded(network, "float32"), experiment)(given)
        assert (answer.shape, answer.dtype) == (shape, np.float32)
        np.testing.assert_allclose(answer, expected, atol=2e-5)


def test_the_network_is_traced_once_and_threads_do_not_mix_up(tiny, network):
    traced = []

    def counting(images, training):
        traced.append(images.shape)
        return network(images, training=training)

    predictor = ScanPredictor(counting, tiny)
    rng = np.random.default_rng(0)
    scans = [rng.normal(50, 200, (n, 40 + n, 50)).astype(np.float32) for n in (1, 5, BATCH_SLICES, 21)]
    expected = [predictor(scan) for scan in scans]
    assert traced == [(BATCH_SLICES, 32, 32, 1)]
    answers = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.__setitem__(n, [predictor(scans[n]) for _ in range(3)]))
        for n in range(len(scans))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, scan in enumerate(expected):
        for answer in answers[n]:
            np.testing.assert_array_equal(answer, scan)


def test_the_input_is_not_changed(tiny, network):
    images = np.random.default_rng(0).normal(50, 200, (2, 32, 32)).astype(np.float32)
    before = images.copy()
    ScanPredictor(network, tiny)(images)
    np.testing.assert_array_equal(images, before)


def test_mirror_images_are_turned_back():
    """A pointwise network gives the same over all four views; one that marks a corner, a quarter in each corner."""
    images = np.random.default_rng(0).random((2, 4, 6)).astype(np.float32)
    np.testing.assert_allclose(Mirrored(lambda x: x * 2)(images), images * 2, rtol=1e-6)

    def corner(x):
        out = np.zeros_like(x)
        out[:, 0, 0] = 1
        return out

    expected = np.zeros((2, 4, 6))
    for row in (0, -1):
        for column in (0, -1):
            expected[:, row, column] = 0.25
    np.testing.assert_array_equal(Mirrored(corner)(images), expected)


def test_runs_are_averaged():
    averaged = Averaged([lambda x: x, lambda x: x + 0.3, lambda x: x * 0])
    np.testing.assert_allclose(averaged(np.full((1, 2, 2), 0.6, np.float32)), 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("asked", "computed"), [("float32", "float32"), ("auto", "bfloat16"), ("mixed_float16", "bfloat16")]
)
def test_the_machine_chooses_the_type_unless_float32_is_asked_for(
    tiny, network, tmp_path, monkeypatch, asked, computed
):
    monkeypatch.setattr("tf_liver.model.precision.cpu_flags", lambda: {"amx_bf16"})
    network.save_weights(tmp_path / "w.weights.h5")
    _, kind = load_predictor(replace(tiny, precision=asked), str(tmp_path / "w.weights.h5"))
    assert kind == computed


def choosing(neighbours, channel):
    """A network of 2n + 1 channels whose logit is how far one of them lies above a half."""
    image = layers.Input((None, None, 2 * neighbours + 1))
    network = tf.keras.Model(image, layers.Conv2D(1, 1)(image))
    kernel = np.zeros((1, 1, 2 * neighbours + 1, 1))
    kernel[0, 0, channel] = 20
    network.layers[-1].set_weights([kernel, np.array([-10.0])])
    return network


def moved(slices, by):
    """Return each slice's neighbour so many slices above it; those at the ends repeat."""
    return slices[np.clip(np.arange(len(slices)) + by, 0, len(slices) - 1)]


@pytest.mark.parametrize("size", [0, 32])
@pytest.mark.parametrize(("neighbours", "channel"), [(0, 0), (1, 0), (3, 6)])
def test_a_network_that_reads_one_neighbour_paints_that_neighbour(tiny, size, neighbours, channel):
    """In any batch and at both ends of a scan: predict's way, the exported graph, several runs together."""
    experiment = replace(tiny, image_size=size, neighbours=neighbours, window_hu=(0.0, 200.0))
    network = choosing(neighbours, channel)
    slices = np.random.default_rng(0).integers(0, 200, (37, 32, 32)).astype(np.int16)
    slices[np.abs(slices - 100) < 3] = 0
    expected = moved(slices, channel - neighbours) > 100
    scan, graph = ScanPredictor(folded(network, "float32"), experiment), SlicePredictor(network, experiment)
    centre = ScanPredictor(choosing(0, 0), replace(experiment, neighbours=0))
    for predictor in (scan, graph, Averaged([scan]), AveragedSlices([graph])):
        assert predictor.neighbours == neighbours
        np.testing.assert_array_equal(segment_volume(predictor, slices), expected)
    together = np.concatenate([p for _, p in probability_batches(Averaged([scan, centre]), slices)])
    apart = [np.concatenate([p for _, p in probability_batches(each, slices)]) for each in (scan, centre)]
    np.testing.assert_allclose(together, np.mean(apart, axis=0), atol=1e-6)
    np.testing.assert_array_equal(graph.alone(slices.astype(np.float32)).numpy() > 0.5, slices > 100)


def test_mirror_images_keep_their_neighbours(tiny):
    experiment = replace(tiny, neighbours=1, window_hu=(0.0, 200.0))
    predictor = Mirrored(ScanPredictor(choosing(1, 0), experiment))
    slices = np.random.default_rng(0).integers(0, 2, (5, 32, 32)).astype(np.int16) * 200
    np.testing.assert_array_equal(segment_volume(predictor, slices), moved(slices, -1) > 100)
