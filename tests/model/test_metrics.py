import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tf_liver.model.metrics import Dice, MeanIoU, PixelAccuracy

ALL = (PixelAccuracy, MeanIoU, Dice)
# reference 1 1 0 0, prediction 1 0 1 0 (as probabilities): one of each kind.
REFERENCE, PREDICTION = np.array([[1, 1], [0, 0]]), np.array([[0.9, 0.4], [0.5, 0.1]])


def result(metric, *batches):
    for reference, prediction in batches:
        metric.update_state(reference, prediction)
    return float(metric.result())


@pytest.mark.parametrize(
    ("kind", "reference", "prediction", "expected"),
    [
        (PixelAccuracy, REFERENCE, PREDICTION, 2 / 4),
        (MeanIoU, REFERENCE, PREDICTION, (1 / 3 + 1 / 3) / 2),
        (Dice, REFERENCE, PREDICTION, 2 / 4),
        (PixelAccuracy, [1, 0, 0, 0], [1, 1, 0, 0], 3 / 4),
        (MeanIoU, [1, 0, 0, 0], [1, 1, 0, 0], (1 / 2 + 2 / 3) / 2),
        (Dice, [1, 0, 0, 0], [1, 1, 0, 0], 2 / 3),
        # all background, found so; all liver, found so
        *[(kind, [0, 0], [0.0, 0.2], 1) for kind in ALL],
        *[(kind, [1, 1], [1.0, 0.7], 1) for kind in ALL],
        # all background, all called liver; all liver, all missed
        *[(kind, [0, 0], [1.0, 1.0], 0) for kind in ALL],
        *[(kind, [1, 1], [0.0, 0.0], 0) for kind in ALL],
    ],
)
def test_by_hand(kind, reference, prediction, expected):
    assert result(kind(), (np.array(reference), np.array(prediction))) == pytest.approx(expected)


def test_a_probability_of_one_half_is_liver():
    assert result(Dice(), ([1.0], [0.5])) == 1
    assert result(Dice(from_logits=True), ([1.0], [0.0])) == 1
    assert result(Dice(from_logits=True), ([1.0], [-1e-3])) == 0


@pytest.mark.parametrize("kind", ALL)
@settings(deadline=None, max_examples=25)
@given(
    reference=arrays(np.uint8, 60, elements=st.integers(0, 1)),
    prediction=arrays(np.float32, 60, elements=st.floats(0, 1, width=32)),
    cuts=st.lists(st.integers(1, 59), max_size=4),
)
def test_unequal_batches_equal_one_pass(kind, reference, prediction, cuts):
    parts = np.split(np.arange(60), sorted(set(cuts)))
    streamed = result(kind(), *[(reference[p], prediction[p]) for p in parts])
    assert streamed == result(kind(), (reference, prediction))


@pytest.mark.parametrize("kind", ALL)
def test_they_reset_serialise_and_reload(kind):
    metric = kind(from_logits=True)
    result(metric, (REFERENCE, PREDICTION))
    metric.reset_state()
    again = tf.keras.metrics.deserialize(tf.keras.metrics.serialize(metric))
    assert type(again) is kind
    assert again.from_logits
    assert again.name == metric.name
    batch = (REFERENCE, PREDICTION - 0.5)
    assert result(metric, batch) == result(again, batch) > 0


@pytest.mark.parametrize("kind", ALL)
def test_counts_are_exact_where_float32_is_not(kind):
    metric = kind()
    big = 2**24 + 1
    metric.counts.assign([[big, 1], [1, big]])
    assert int(tf.reduce_sum(metric.counts)) == 2 * big + 2
    metric.update_state([1.0], [1.0])
    assert int(metric.counts[1, 1]) == big + 1


def test_they_survive_a_saved_keras_model(tmp_path):
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(1,))])
    model.compile("sgd", "mse", metrics=[MeanIoU(), Dice(from_logits=True)])
    model.fit(np.ones((4, 1)), np.ones((4, 1)), verbose=0)
    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras")
    again.evaluate(np.ones((4, 1)), np.ones((4, 1)), verbose=0)
    assert {"mean_iou", "dice"} <= set(again.metrics_names)


def test_sample_weights_are_refused():
    with pytest.raises(ValueError, match="counted, not weighed"):
        Dice().update_state([1.0], [1.0], sample_weight=[0.5])
