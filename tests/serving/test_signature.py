"""The signatures, through TensorFlow's C++ loader, as a server runs them."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_network import small_predictor

from tf_liver.data.nifti import read_volume
from tf_liver.data.slices import THRESHOLD
from tf_liver.experiment import replace
from tf_liver.serving.check import read_signatures
from tf_liver.serving.loader import LoadedModel, ServingError
from tf_liver.serving.signature import MAX_VOXELS, ServedModel
from tf_liver.serving.wire import SIGNATURES, decode_labels, encode_slices, example_inputs

DENSE = [("serving_default", "image", np.float32), ("serve_int16", "image", np.int16), ("volume", "volume", np.int16)]


@pytest.fixture(scope="module")
def model(exported):
    return LoadedModel(exported, read_signatures(exported))


def labels_of(model, slices):
    """Return the label map that each signature gives for slices of one size."""
    found = {}
    for signature, inputs in example_inputs(slices).items():
        if signature == "describe":
            continue
        outputs = model.run(signature, inputs)
        found[signature] = (
            decode_labels(outputs["label_bytes"], slices.shape) if "label_bytes" in outputs else outputs["label"]
        )
    return found


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 101, 122), (2, 1, 1), (1, 2048, 2048), (1, 1, 2048), (37, 33, 40)])
def test_any_size_and_number_of_slices(model, predictor, shape):
    slices = np.random.default_rng(0).normal(50, 300, shape).astype(np.int16)
    images = slices.astype(np.float32)
    expected = np.concatenate([predictor(images[n : n + 16]).numpy() for n in range(0, len(images), 16)])
    for signature in ("serving_default", "serve_int16"):
        ((name, _),) = example_inputs(slices[:1])[signature].items()
        answer = model.run(signature, {name: images if signature == "serving_default" else slices})
        assert answer["probability"].dtype == np.float32
        np.testing.assert_allclose(answer["probability"], expected, atol=1e-6)
    for label in labels_of(model, slices).values():
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, expected >= THRESHOLD)


def test_names_and_types_are_what_the_card_says(exported):
    graph = tf.saved_model.load(str(exported))
    assert sorted(graph.signatures) == sorted(SIGNATURES)
    for name, signature in graph.signatures.items():
        told = SIGNATURES[name]
        for key, spec in (*signature.structured_input_signature[1].items(), *signature.structured_outputs.items()):
            assert f"{key}: " in told
            if spec.dtype != tf.string:
                assert f"{key}: {spec.dtype.name}" in told
                assert spec.shape.as_list() == [None, None, None]


def test_nothing_of_keras_is_in_the_export(exported):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    assert not list(exported.rglob("keras_metadata.pb"))
    graph = SavedModel.FromString((exported / "saved_model.pb").read_bytes()).meta_graphs[0]
    assert not [n for n in graph.object_graph_def.nodes if "keras" in n.user_object.identifier]


def test_pngs_of_many_sizes_in_one_request(model, predictor):
    rng = np.random.default_rng(0)
    images = [rng.integers(-500, 500, shape).astype(np.int16) for shape in ((40, 50), (7, 3), (64, 64))]
    pngs = model.run("serve_encoded", {"image_bytes": [encode_slices(image[None])[0] for image in images]})
    for image, png in zip(images, pngs["label_bytes"], strict=True):
        expected = predictor(image[None].astype(np.float32)).numpy() >= THRESHOLD
        np.testing.assert_array_equal(decode_labels([png], (1, *image.shape)), expected)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.integers(-1024, 32767)))
def test_pngs_hold_hu_exactly(slices):
    for png, image in zip(encode_slices(slices), slices, strict=True):
        value = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
        assert value.dtype == np.uint16
        np.testing.assert_array_equal(value.astype(int) - 1024, image)


@pytest.mark.parametrize(("signature", "name", "dtype"), DENSE)
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((), "not compatible with expected shape"),
        ((4,), "not compatible with expected shape"),
        ((4, 4), "not compatible with expected shape"),
        ((1, 4, 4, 1), "not compatible with expected shape"),
        ((0, 4, 4), "at least one slice and one pixel"),
        ((1, 0, 4), "at least one slice and one pixel"),
        ((1, 4, 2049), "height and width must be 2048 or less"),
        ((2**24, 4, 5), f"more than {MAX_VOXELS} voxels"),
    ],
)
def test_row_74_wrong_shapes_get_an_error(model, signature, name, dtype, shape, message):
    with pytest.raises(ServingError, match=message) as caught:
        model.run(signature, {name: np.zeros(shape, dtype)})
    assert caught.value.code == 3
    assert model.run("volume", {"volume": np.zeros((1, 4, 4), np.int16)})["label"].shape == (1, 4, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_row_74_nan_gets_an_error(model, value):
    image = np.zeros((20, 4, 4), np.float32)
    image[19, 3, 3] = value
    with pytest.raises(ServingError, match="HU must be numbers, not NaN or infinite"):
        model.run("serving_default", {"image": image})


def png_of(value):
    return cv2.imencode(".png", value)[1].tobytes()


def png_bomb():
    """A PNG whose header promises 60,000 × 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 16, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 99


@pytest.mark.parametrize(
    ("pngs", "message"),
    [
        ([], "at least one PNG"),
        ([b""], "no PNGs, by length"),
        ([b"\xff\xd8" * 50], "no PNGs, by their first bytes"),
        ([png_of(np.zeros((4, 4), np.uint8))], "must be 16-bit greyscale"),
        ([png_of(np.zeros((4, 4, 3), np.uint16))], "must be 16-bit greyscale"),
        ([png_of(np.arange(400, dtype=np.uint16).reshape(20, 20))[:90]], "PNG"),
        ([png_bomb()], "height and width must be 2048 or less"),
        ([png_of(np.zeros((4, 2049), np.uint16))], "height and width must be 2048 or less"),
        ([png_of(np.zeros((2048, 2048), np.uint16))] * 65, f"more than {MAX_VOXELS} pixels"),
    ],
)
def test_row_74_what_is_no_png_gets_an_error(model, pngs, message):
    with pytest.raises(ServingError, match=message):
        model.run("serve_encoded", {"image_bytes": pngs})


def test_native_size_takes_fewer_large_slices_at_once(tiny):
    """The memory of a batch at native size grows with the slices: above 512² batches get smaller, not the answer."""
    predictor = small_predictor(replace(tiny, image_size=0))
    served = ServedModel(predictor, native=True).signatures()
    for shape in ((2, 45, 70), (9, 750, 800)):
        images = np.random.default_rng(0).normal(50, 300, shape).astype(np.float32)
        answer = served["serving_default"](image=tf.constant(images))["probability"]
        np.testing.assert_allclose(answer, predictor(images), atol=1e-6)


def test_equal_to_inference_on_a_real_slice(model, predictor, real_data):
    scan = read_volume(real_data / "other" / "amos_0013_slab_image.nii.gz").slices[5:6].astype(np.float32)
    answer = model.run("serving_default", {"image": scan})["probability"]
    np.testing.assert_allclose(answer, predictor(scan).numpy(), atol=1e-5)
