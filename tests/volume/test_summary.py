import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tf_liver.data.cases import Case
from tf_liver.volume.lesions import match_lesions, tumour_burden
from tf_liver.volume.scores import score_region
from tf_liver.volume.scoring import CaseResult
from tf_liver.volume.summary import RESAMPLES, describe, resample_patients, summarise
from tf_liver.volume.tables import metrics_csv, summary_lines, table, to_json

STEP_MM = np.diag([1.0, 2.0, 5.0])


def result(case_id, reference, prediction, patient=None):
    """A case from two rows of labels."""
    case = Case(case_id, Path("i"), Path("l"), patient or case_id)
    reference, prediction = (np.array(labels, np.uint8).reshape(1, 1, -1) for labels in (reference, prediction))
    pairs = {"liver": (reference > 0, prediction > 0), "tumour": (reference == 2, prediction == 2)}
    scored = {name: score_region(case_id, name, *pair, STEP_MM, reference.size) for name, pair in pairs.items()}
    burdens = {"burden_reference": tumour_burden(reference), "burden_prediction": tumour_burden(prediction)}
    rows = {name: row for name, (row, _) in scored.items()}
    rows["tumour"] = dataclasses.replace(rows["tumour"], **burdens)
    counts = {name: of_region for name, (_, of_region) in scored.items()}
    return CaseResult(case, rows, counts, match_lesions(*pairs["tumour"], STEP_MM), True)


def test_a_missed_organ_stays_in_the_mean_and_undefined_distances_are_counted():
    results = [result("a", [0, 1, 1, 1], [0, 1, 1, 1]), result("b", [0, 1, 1, 1], [0, 0, 0, 0])]
    summary = summarise(results, {})
    liver = summary["regions"]["liver"]
    assert (liver["dice"]["mean"], liver["dice"]["median"], liver["dice"]["undefined"]) == (0.5, 0.5, 0)
    assert liver["dice"]["sd"] == pytest.approx(0.5**0.5)
    assert (liver["hd95_mm"]["mean"], liver["hd95_mm"]["undefined"]) == (0, 1)
    assert (liver["hd95_mm"]["sd"], liver["dice"]["q1"], liver["dice"]["q3"]) == (None, 0.25, 0.75)
    assert summary["pooled"]["liver"]["dice"] == pytest.approx(2 * 3 / (6 + 3))
    assert (summary["empty_prediction"]["liver"], summary["empty_reference"]["liver"], summary["cases"]) == (1, 0, 2)
    assert "(1 undefined) over 2 cases" in summary_lines(summary)
    lines = metrics_csv([row for one in results for row in one.rows.values()]).splitlines()
    assert lines[0].startswith("case_id,region,dice,iou,precision,recall,")
    assert len(lines) == 5
    cells = dict(zip(lines[0].split(","), lines[3].split(","), strict=True))
    assert (cells["case_id"], cells["region"], cells["dice"], cells["hd95_mm"]) == ("b", "liver", "0.0", "")
    assert table([results[1].rows["liver"]]).splitlines()[1].split()[-4:] == ["–", "–", "0.0", "0.0"]


def test_the_lits_figures_by_hand():
    results = [
        result("a", [0, 1, 2, 2, 1, 1, 2, 0], [0, 1, 2, 2, 1, 1, 1, 0]),  # one found, one missed; burden 3/6, 2/6
        result("b", [0, 1, 1, 1, 1, 1, 0, 0], [2, 1, 1, 1, 0, 0, 0, 0]),  # one invented; burden 0, 1/4
        result("c", [0] * 8, [0] * 8),
    ]
    lits = summarise(results, {})["lits"]
    assert [lits["lesions"][kind] for kind in ("found", "missed", "invented")] == [1, 1, 1]
    assert (lits["lesions"]["precision"], lits["lesions"]["recall"]) == (1 / 2, 1 / 2)
    assert (lits["lesions"]["dice"], lits["lesions"]["assd_mm"]) == (1, 0)
    errors = np.array([1 / 6, 1 / 4])
    assert lits["tumour_burden"]["rmse"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert lits["tumour_burden"]["max"] == pytest.approx(1 / 4)
    assert lits["tumour_burden"]["undefined"] == 1
    assert lits["tumour"]["dice_global"] == pytest.approx(2 * 2 / (3 + 3))
    assert lits["tumour"]["dice_per_case"] == pytest.approx((4 / 5 + 0 + 1) / 3)
    assert lits["liver"]["voe"] == pytest.approx((0 + 1 - 3 / 6 + 0) / 3)
    assert lits["liver"]["rvd"] == pytest.approx((0 - 1 / 5 + 0) / 3)


def test_failures_and_patients_are_named_and_all_is_json():
    results = [result("a", [1, 0], [1, 0], "p"), CaseResult(Case("b", Path("i"), Path("l"), "q"), error="bad")]
    summary = json.loads(to_json(summarise(results, {"c": "worse"})))
    assert summary["failed"] == {"c": "worse", "b": "bad"}
    assert summary["patients"] == {"a": "p"}
    assert summary["cases"] == 1
    assert summary["regions"]["liver"]["dice"]["low"] is None  # one patient says nothing of others
    assert summary["regions"]["tumour"]["hd95_mm"]["mean"] is None
    assert summarise([], {"c": "worse"})["regions"] == {}


def test_the_interval_is_that_of_a_plain_bootstrap():
    """Patients are drawn with all their cases, so the mean is over cases; 2,000 draws in a plain loop."""
    rng = np.random.default_rng(5)
    values, patients = rng.normal(0.9, 0.05, 30), [f"p{n // 3}" for n in range(30)]
    got = describe(values, resample_patients(patients))
    groups = values.reshape(10, 3)
    means = [groups[rng.integers(10, size=10)].mean() for _ in range(2000)]
    assert (got["low"], got["high"]) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.003)
    assert describe(values, resample_patients(patients)) == got


def test_more_cases_of_the_same_patients_do_not_narrow_the_interval():
    values = np.array([0.7, 0.8, 0.9, 0.95])
    once = describe(values, resample_patients("abcd"))
    often = describe(np.repeat(values, 5), resample_patients("aaaaabbbbbcccccddddd"))
    assert (often["low"], often["high"]) == pytest.approx((once["low"], once["high"]))
    as_cases = describe(np.repeat(values, 5), resample_patients([str(n) for n in range(20)]))
    assert as_cases["high"] - as_cases["low"] < 0.7 * (often["high"] - often["low"])


@settings(deadline=None, max_examples=25)
@given(arrays(float, 6, elements=st.one_of(st.floats(0, 1), st.just(math.nan))))
def test_a_summary_lies_within_its_values(values):
    got = describe(values, resample_patients("aabcde"))
    defined = values[~np.isnan(values)]
    assert got["undefined"] == 6 - len(defined)
    if len(defined):
        assert defined.min() <= got["q1"] <= got["median"] <= got["q3"] <= defined.max()
        assert defined.min() - 1e-9 <= got["low"] <= got["high"] <= defined.max() + 1e-9
        assert got["mean"] == pytest.approx(defined.mean())
    else:
        assert got["mean"] is got["low"] is None


def test_every_resample_draws_as_many_patients_as_there_are():
    weights = resample_patients("aabc")
    assert weights.shape == (RESAMPLES, 4)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
