"""A tumour model that is exported and served: three labels, two probabilities."""

import json

import numpy as np
import pytest
import tensorflow as tf
from serving_servers import standin

from tf_liver import export
from tf_liver.data.nifti import read_volume
from tf_liver.experiment import replace
from tf_liver.model.predictor import SlicePredictor, load_predictor
from tf_liver.model.unet import load_network
from tf_liver.serving.check import agreement, read_signatures
from tf_liver.serving.client import Address, RemoteModel
from tf_liver.serving.loader import LoadedModel
from tf_liver.serving.signature import MAX_VOXELS, ServedModel
from tf_liver.serving.wire import decode_labels, encode_slices, example_inputs, signatures_of
from tf_liver.volume.inference import labels_of, segment_volume

HEADS = {2: "regions", 3: "classes"}


@pytest.fixture(scope="module")
def exported(tumour_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    assert export.main([str(tumour_run.path), "--output", str(folder), "--precision", "float32"]) == 0
    return folder / "tf_liver" / "1"


@pytest.fixture(scope="module")
def slices(phantoms):
    scan = read_volume(phantoms / "imagesTr" / "phantom_00.nii.gz").slices
    return np.ascontiguousarray(scan[4:24])


@pytest.mark.slow
def test_an_exported_tumour_model_says_what_it_is(exported):
    graph, told = tf.saved_model.load(str(exported)), signatures_of("tumour")
    for name in ("serving_default", "serve_int16"):
        assert graph.signatures[name].structured_outputs["probability"].shape.as_list() == [None, None, None, 2]
        assert "float32 (B, H, W, 2)" in told[name]
        assert graph.signatures[name].structured_outputs["label"].shape.as_list() == [None, None, None]
    facts, card = json.loads((exported / "metadata.json").read_text()), (exported / "model_card.md").read_text()
    assert (facts["task"], facts["signatures"]) == ("tumour", told)
    assert facts["labels"] == {"0": "background", "1": "liver", "2": "cancer"}
    assert "of liver and of tumour" in card
    assert "1 liver, 2 cancer" in card


@pytest.mark.slow
def test_every_signature_gives_the_labels_of_predict(tumour_run, exported, slices):
    network = load_network(tumour_run.experiment, str(tumour_run.checkpoint("best")))
    own = SlicePredictor(network, tumour_run.experiment)
    images = slices.astype(np.float32)
    expected = np.concatenate([own(images[n : n + 16]).numpy() for n in (0, 16)])
    model, inputs = LoadedModel(exported, read_signatures(exported)), example_inputs(slices)
    for name in ("serving_default", "serve_int16"):
        answer = model.run(name, inputs[name])
        np.testing.assert_allclose(answer["probability"], expected, atol=1e-4)
        np.testing.assert_array_equal(answer["label"], labels_of(answer["probability"]))
        np.testing.assert_array_equal(answer["label"], model.run("volume", inputs["volume"])["label"])
    assert set(np.unique(answer["label"])) == {0, 1, 2}


@pytest.mark.slow
def test_a_server_answers_with_three_labels(tumour_run, exported, slices):
    predictor, _ = load_predictor(tumour_run.experiment, str(tumour_run.checkpoint("best")))
    expected = segment_volume(predictor, slices)
    with standin(exported.parents[1]) as server:
        for protocol in ("rest", "grpc"):
            model = RemoteModel(Address(server.url(protocol)))
            assert model.experiment() == tumour_run.experiment
            found = model.segment(slices)
            np.testing.assert_array_equal(segment_volume(model, slices), found)
            assert (found != expected).mean() < 1e-3  # OpenCV and TensorFlow resize alike, to rounding
            assert set(np.unique(found)) == {0, 1, 2}


@pytest.mark.parametrize("head", [2, 3])
def test_signatures_before_they_are_saved(tiny, slices, head):
    """Three batches of slices, and PNGs, against the predictor itself."""
    wild = tf.keras.initializers.RandomNormal(0, 5, seed=1)  # all three labels occur
    network = tf.keras.Sequential([tf.keras.layers.Conv2D(head, 3, padding="same", kernel_initializer=wild)])
    predictor = SlicePredictor(network, replace(tiny, task="tumour", tumour_head=HEADS[head]))
    served = ServedModel(predictor, native=False).signatures()
    expected = predictor(slices.astype(np.float32)).numpy()
    answer = served["serve_int16"](image=tf.constant(slices))
    np.testing.assert_allclose(answer["probability"], expected, atol=1e-5)
    labels = answer["label"].numpy()
    np.testing.assert_array_equal(labels, labels_of(answer["probability"].numpy()))
    assert set(np.unique(labels)) == {0, 1, 2}
    np.testing.assert_array_equal(served["volume"](volume=tf.constant(slices))["label"], labels)
    pngs = served["serve_encoded"](image_bytes=tf.constant(encode_slices(slices)))["label_bytes"].numpy()
    np.testing.assert_array_equal(decode_labels(list(pngs), slices.shape), labels)


def test_twice_the_probabilities_are_half_the_voxels():
    """An answer must stay below protobuf's 2 GiB."""
    assert MAX_VOXELS * (4 + 1) < 2**31
    assert MAX_VOXELS // 2 * (8 + 1) < 2**31


def test_the_check_of_an_export_sees_tumours_too():
    probability = np.full((1, 40, 40, 2), 0.1, np.float32)
    probability[..., 0] = 0.9
    probability[0, :3, 0, 1] = 0.9
    label = labels_of(probability)
    assert agreement(label, probability) == 1
    assert agreement(np.minimum(label, 1), probability) == 0
    assert agreement((label > 0) * np.uint8(2), probability) < 0.01
    probability[0, 3, 0, 1] = 0.5 - 1e-4  # rounding may turn it
    assert agreement(labels_of(probability + np.float32(2e-4)), probability) == 1
