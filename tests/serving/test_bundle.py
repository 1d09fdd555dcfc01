import numpy as np
import pytest
import tensorflow as tf

from tf_liver.data.nifti import read_volume
from tf_liver.experiment import replace
from tf_liver.model.predictor import SlicePredictor
from tf_liver.model.unet import build_network
from tf_liver.serving import bundle


@pytest.fixture(scope="module")
def predictor(tiny):
    tf.keras.utils.set_random_seed(0)
    return SlicePredictor(build_network(tiny), tiny)


def small_predictor(experiment):
    """One convolution in place of the network, for tests of the files around it."""
    return SlicePredictor(tf.keras.Sequential([tf.keras.layers.Conv2D(1, 3, padding="same")]), experiment)


@pytest.fixture(scope="module")
def exported(predictor, tmp_path_factory):
    return bundle.write_bundle(predictor, tmp_path_factory.mktemp("export"))


def served(folder, images):
    return tf.saved_model.load(str(folder)).signatures["serving_default"](image=tf.constant(images))["probability"]


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 101, 122), (2, 1, 1)])
def test_any_size_and_number_of_slices(exported, predictor, shape):
    images = np.random.default_rng(0).normal(50, 300, shape).astype(np.float32)
    answer = served(exported, images).numpy()
    assert answer.shape == shape
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, predictor(images).numpy(), atol=1e-6)


def test_equal_to_inference_on_a_real_slice(exported, predictor, real_data):
    scan = read_volume(real_data / "other" / "amos_0013_slab_image.nii.gz").slices[5:6].astype(np.float32)
    np.testing.assert_allclose(served(exported, scan).numpy(), predictor(scan).numpy(), atol=1e-5)


def test_versions_count_up_and_nothing_else_is_left(tiny, tmp_path):
    for version in ("1", "2"):
        assert bundle.write_bundle(small_predictor(tiny), tmp_path).name == version
    assert sorted(p.name for p in (tmp_path / "tf_liver").iterdir()) == ["1", "2"]


def test_a_failed_check_leaves_nothing(tiny, tmp_path, monkeypatch):
    """The saved model answers as the project did before its weights were changed."""
    predictor = small_predictor(tiny)
    save = tf.saved_model.save

    def save_and_change(module, *args, **kwargs):
        save(module, *args, **kwargs)
        predictor.network.layers[0].bias.assign([1.0])

    monkeypatch.setattr(bundle.tf.saved_model, "save", save_and_change)
    with pytest.raises(RuntimeError, match="must answer as the project does"):
        bundle.write_bundle(predictor, tmp_path)
    assert list((tmp_path / "tf_liver").iterdir()) == []


def test_native_size_is_exported_too(tiny, tmp_path):
    native = small_predictor(replace(tiny, image_size=0))
    images = np.random.default_rng(0).normal(50, 300, (2, 45, 70)).astype(np.float32)
    answer = served(bundle.write_bundle(native, tmp_path), images)
    assert answer.shape == (2, 45, 70)
    np.testing.assert_allclose(answer.numpy(), native(images).numpy(), atol=1e-6)
