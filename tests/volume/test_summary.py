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
from tf_liver.volume.intervals import mean_interval
from tf_liver.volume.lesions import match_lesions, tumour_burden
from tf_liver.volume.scores import score_region
from tf_liver.volume.scoring import CaseResult
from tf_liver.volume.summary import describe, summarise
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
    lesions = match_lesions(*pairs["tumour"], STEP_MM)
    numbers = {f"lesions_{kind}": getattr(lesions, kind) for kind in ("found", "missed", "invented")}
    rows["tumour"] = dataclasses.replace(rows["tumour"], **burdens, **numbers)
    counts = {name: of_region for name, (_, of_region) in scored.items()}
    return CaseResult(case, rows, counts, lesions, True)


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


def test_the_interval_is_that_of_the_patients_means():
    values = np.random.default_rng(5).uniform(0.7, 1, 30)
    got = describe(values, [f"p{n // 3}" for n in range(30)], (0, 1))
    assert (got["low"], got["high"]) == mean_interval(values.reshape(10, 3).mean(axis=1), (0, 1))
    assert got["patients"] == 10


def test_more_cases_of_the_same_patients_do_not_narrow_the_interval():
    values = np.array([0.7, 0.8, 0.9, 0.95])
    once = describe(values, "abcd", (0, 1))
    often = describe(np.repeat(values, 5), "aaaaabbbbbcccccddddd", (0, 1))
    assert (often["low"], often["high"]) == pytest.approx((once["low"], once["high"]))
    as_cases = describe(np.repeat(values, 5), [str(n) for n in range(20)], (0, 1))
    assert as_cases["high"] - as_cases["low"] < 0.7 * (often["high"] - often["low"])


@settings(deadline=None, max_examples=25)
@given(arrays(float, 6, elements=st.one_of(st.floats(0, 1), st.just(math.nan))))
def test_a_summary_lies_within_its_values(values):
    got = describe(values, "aabcde", (0, 1))
    defined = values[~np.isnan(values)]
    assert got["undefined"] == 6 - len(defined)
    if len(defined):
        assert defined.min() <= got["q1"] <= got["median"] <= got["q3"] <= defined.max()
        assert got["mean"] == pytest.approx(defined.mean())
    else:
        assert got["mean"] is got["low"] is None
    assert (got["low"] is None) == ("no_interval" in got) == (got["patients"] < 3)


def test_a_model_that_finds_no_tumour_has_dice_0_however_many_cases_hold_none():
    """Row 97: four cases with tumour, all missed, and three without, of which one is claimed to hold 3 voxels of it."""
    bearing = [result(f"b{n}", [1, 1, 2, 1], [1, 1, 1, 1]) for n in range(4)]
    clean = [result(f"c{n}", [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]) for n in range(2)]
    claimed = result("d", [1, 1, 1, 1, 1], [1, 2, 1, 2, 2])
    results = [*bearing, *clean, claimed]
    summary = summarise(results, {})
    tumour = summary["regions"]["tumour"]
    assert (tumour["dice"]["mean"], tumour["nsd_2mm"]["mean"], tumour["dice"]["patients"]) == (0, 0, 4)
    assert summary["cases_with_region"] == {"liver": 7, "tumour": 4}
    ml = 3 * 1 * 2 * 5 / 1000
    assert summary["false_positives"] == {
        "liver": {"cases": 0, "with_prediction": 0, "ml": 0},
        "tumour": {"cases": 3, "with_prediction": 1, "lesions": 2, "ml": pytest.approx(ml)},
    }
    assert summary["lits"]["tumour"]["dice_per_case"] == pytest.approx(2 / 7)  # as the challenge counts
    assert summary["msd"]["tumour"] == {"dice": 0, "nsd_7mm": pytest.approx(0), "undefined": 2}
    said = summary_lines(summary).splitlines()[1]
    assert said.startswith("tumour: mean Dice 0.0000 (95 % 0.0000 to ")
    assert ", 4 patients)" in said
    assert "over 4 cases that hold it (of 3 without it 1 with false positives, 2 lesions, 0.0 ml)" in said
    rows = [one.rows["tumour"] for one in results]
    cells = [line.split(",") for line in metrics_csv(rows).splitlines()]
    column = cells[0].index("false_positive_ml")
    assert [line[column] for line in cells[1:-1]] == ["", "", "", "", "0.0", "0.0"]
    assert float(cells[-1][column]) == pytest.approx(ml)
    shown = table(rows).splitlines()
    assert shown[1].split()[2] == "0.0000"
    assert shown[5].split()[2:] == ["–"] * 7 + ["0.0"] * 2


def test_tumours_that_no_reference_holds_have_no_mean():
    summary = json.loads(to_json(summarise([result("a", [1, 1], [1, 2])], {})))
    assert summary["regions"]["tumour"]["dice"]["mean"] is None
    assert "tumour: mean Dice – (no interval: 0 patients" in summary_lines(summary)
    assert "over 0 cases that hold it (of 1 without it 1 with false positives, 1 lesion, " in summary_lines(summary)
