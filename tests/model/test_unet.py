import numpy as np
import pytest
import tensorflow as tf

from tf_liver.experiment import ExperimentError, replace
from tf_liver.model import precision
from tf_liver.model.metrics import liver_metrics
from tf_liver.model.predictor import SlicePredictor
from tf_liver.model.unet import build_network, compile_network, load_network


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_whatever_the_policy(tiny, policy):
    network = build_network(replace(tiny, precision=policy, backbone="resnet34"))
    logits = network(tf.zeros((2, 32, 64, 1)))
    assert (logits.shape, logits.dtype) == ((2, 32, 64, 1), tf.float32)
    assert network.get_layer("logits").compute_dtype == "float32"
    assert network.count_params() == pytest.approx(24.45e6, rel=0.01)
    assert {layer.momentum for layer in network.layers if "BatchNorm" in type(layer).__name__} == {0.8}


def test_an_all_liver_float16_batch_has_finite_loss_and_metrics(tiny):
    experiment = replace(tiny, precision="mixed_float16")
    network = build_network(experiment)
    compile_network(network, experiment, 1)
    logs = network.train_on_batch(np.ones((16, 32, 32, 1)), np.ones((16, 32, 32, 1)), return_dict=True)
    assert set(logs) == {"loss", *[m.name for m in liver_metrics()]}
    assert all(np.isfinite(v) for v in logs.values())


def test_an_unknown_backbone_lists_those_there_are(tiny):
    with pytest.raises(ExperimentError, match=r"backbone: must be one of .*resnet34.*Received: 'resnet35'"):
        build_network(replace(tiny, backbone="resnet35"))


def test_weights_of_another_network_are_refused_by_name(tiny, tmp_path):
    path = tmp_path / "best.weights.h5"
    build_network(replace(tiny, backbone="resnet34")).save_weights(path)
    with pytest.raises(ValueError, match=r"best\.weights\.h5: does not hold the weights of tiny"):
        load_network(tiny, str(path))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"best\.weights\.h5: does not hold the weights of tiny"):
        load_network(tiny, str(path))


def test_reloaded_weights_give_the_same_answer(tiny, tmp_path):
    network = build_network(tiny)
    network.save_weights(tmp_path / "best.weights.h5")
    images = np.random.default_rng(0).normal(80, 60, (2, 45, 50)).astype(np.float32)
    again = load_network(tiny, str(tmp_path / "best.weights.h5"))
    expected = SlicePredictor(network, tiny)(images).numpy()
    assert expected.shape == (2, 45, 50)
    np.testing.assert_array_equal(SlicePredictor(again, tiny)(images).numpy(), expected)


class FakeGpu:
    name = "gpu:0"


@pytest.mark.parametrize(
    ("capabilities", "flags", "expected"),
    [
        ([(9, 0)], set(), "mixed_bfloat16"),
        ([(8, 0), (7, 5)], set(), "mixed_float16"),
        ([(6, 1)], {"amx_bf16"}, "float32"),
        ([], {"amx_bf16"}, "mixed_bfloat16"),
        ([], {"avx512_bf16"}, "mixed_bfloat16"),
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
