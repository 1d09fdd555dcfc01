import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from tf_liver.volume.intervals import STUDENT_LEVEL, UNSEEN, in_words, interval_of, limits_of, mean_interval

TRIALS = 300
SHARE = (0.0, 1.0)


def beta(a, b):
    return lambda rng, shape: rng.beta(a, b, shape), a / (a + b)


def failing(share, good, bad):
    """Values of one Beta distribution, and a share of another: patients of whom a model fails."""

    def draw(rng, shape):
        return np.where(rng.random(shape) < share, rng.beta(*bad, shape), rng.beta(*good, shape))

    return draw, (1 - share) * good[0] / sum(good) + share * bad[0] / sum(bad)


DICE_LIKE = {
    "Beta(20, 1.5)": beta(20, 1.5),
    "Beta(9, 1)": beta(9, 1),
    "Beta(2, 0.5)": beta(2, 0.5),
    "Beta(40, 2)": beta(40, 2),
    "5 % fail": failing(0.05, (40, 2), (2, 2)),
    "10 % fail": failing(0.1, (40, 2), (2, 2)),
    "10 % fail badly": failing(0.1, (95, 5), (2, 5)),
    "20 % fail": failing(0.2, (40, 2), (2, 2)),
}
WITHOUT_END = {
    "exponential": (lambda rng, shape: rng.exponential(1, shape), 1.0),
    "gamma": (lambda rng, shape: rng.gamma(2, 1, shape), 2.0),
    "lognormal": (lambda rng, shape: rng.lognormal(0, 0.7, shape), math.exp(0.7**2 / 2)),
    "normal": (lambda rng, shape: rng.normal(0, 1, shape), 0.0),
}


def coverage(samples, mean, limits):
    """The share of the samples, (trials, patients), whose interval holds the mean."""
    found = [mean_interval(sample, limits) for sample in samples]
    return np.mean([low <= mean <= high for low, high in found])


@pytest.mark.parametrize("patients", [3, 5, 10, 30])
@pytest.mark.parametrize("name", DICE_LIKE)
def test_95_percent_of_a_share_covers_92_and_more(name, patients):
    draw, mean = DICE_LIKE[name]
    assert coverage(draw(np.random.default_rng(7), (TRIALS, patients)), mean, SHARE) >= 0.92


@pytest.mark.parametrize("patients", [3, 5, 10, 30])
@pytest.mark.parametrize("name", ["Beta(9, 1)", "10 % fail", "10 % fail badly"])
def test_so_does_the_paired_difference_of_two_models(name, patients):
    """The second model is a little worse where both are good, and never fails."""
    draw, mean = DICE_LIKE[name]
    rng = np.random.default_rng(8)
    differences = rng.beta(30, 3, (TRIALS, patients)) - draw(rng, (TRIALS, patients))
    assert coverage(differences, 30 / 33 - mean, (-1.0, 1.0)) >= 0.92


@pytest.mark.parametrize("patients", [3, 5, 10, 30])
@pytest.mark.parametrize("name", WITHOUT_END)
def test_so_do_distances_and_volumes(name, patients):
    draw, mean = WITHOUT_END[name]
    samples = draw(np.random.default_rng(9), (1500, patients))
    assert coverage(samples, mean, limits_of("rvd" if name == "normal" else "hd95_mm")) >= 0.915


def test_the_percentile_bootstrap_would_not():
    """What was reported before: it tells that the simulation can fail."""
    draw, mean = DICE_LIKE["10 % fail"]
    samples = draw(np.random.default_rng(7), (TRIALS, 5))
    weights = np.random.default_rng(0).multinomial(5, [0.2] * 5, size=2000) / 5
    low, high = np.percentile(samples @ weights.T, [2.5, 97.5], axis=1)
    assert np.mean((low <= mean) & (mean <= high)) < 0.6


def test_without_a_range_it_is_scipys_t_interval():
    values = np.array([3.0, 1.0, 7.5, 2.0])
    expected = stats.t.interval(STUDENT_LEVEL, 3, values.mean(), stats.sem(values))
    assert mean_interval(values, limits_of("volume_difference_ml")) == pytest.approx(expected)
    assert mean_interval(values, limits_of("hd95_mm")) == (0, pytest.approx(expected[1])), "no distance is below 0"


def test_equal_values_by_hand():
    """Of three patients at 0.9 the mean is 0.9 · (1 − share of the unseen one), which is Beta(¼, 3) distributed."""
    low, high = mean_interval(np.full(3, 0.9), SHARE)
    unseen = stats.beta(UNSEEN, 3).ppf(0.975)
    assert low == pytest.approx(0.9 * (1 - unseen), abs=0.02)
    assert high == pytest.approx(0.9 + 0.1 * unseen, abs=0.005)
    assert mean_interval(np.full(3, 2.0), limits_of("hd95_mm")) == (2, 2)


def test_many_patients_give_the_interval_of_the_normal_distribution():
    values = np.random.default_rng(1).beta(8, 2, 4000)
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert mean_interval(values, SHARE) == pytest.approx(expected, abs=5e-4)


@settings(deadline=None, max_examples=30)
@given(arrays(float, st.integers(3, 8), elements=st.floats(0, 1)), st.randoms())
def test_it_lies_in_the_range_around_the_mean_whatever_the_order(values, random):
    low, high = mean_interval(values, SHARE)
    assert 0 <= low <= values.mean() + 1e-9
    assert values.mean() - 1e-9 <= high <= 1 + 1e-12
    mixed = list(values)
    random.shuffle(mixed)
    assert mean_interval(np.array(mixed), SHARE) == (low, high)


@pytest.mark.parametrize(("patients", "said"), [(0, "0 patients"), (1, "1 patient,"), (2, "2 patients")])
def test_below_three_patients_it_is_refused_and_says_why(patients, said):
    found = interval_of(np.full(patients, 0.9), SHARE)
    assert (found["low"], found["high"], found["patients"]) == (None, None, patients)
    assert said in in_words(found)
    assert "at least 3 are needed" in found["no_interval"]


def test_the_number_of_patients_stands_beside_it():
    assert in_words(interval_of(np.array([1.0, 2, 3]), limits_of("rvd"))).endswith(", 3 patients")


@pytest.mark.parametrize(
    ("score", "limits"),
    [
        ("dice", (0, 1)),
        ("nsd_7mm", (0, 1)),
        ("burden_prediction", (0, 1)),
        ("hd95_mm", (0, math.inf)),
        ("reference_ml", (0, math.inf)),
        ("lesions_missed", (0, math.inf)),
        ("volume_difference_ml", (-math.inf, math.inf)),
        ("rvd", (-math.inf, math.inf)),
    ],
)
def test_ranges(score, limits):
    assert limits_of(score) == limits
