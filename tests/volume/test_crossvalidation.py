import csv
import dataclasses
import io

import numpy as np
import pytest

from tf_liver.volume.crossvalidation import folds_csv, in_words, summarise_seeds, table
from tf_liver.volume.scores import score_region

LINE = np.array([True, True, True, False, False, False])[None, None]
NOTHING = np.zeros_like(LINE)
PATIENTS = {name: name for name in "abcd"}


def row(case_id, reference, prediction, invented=0):
    scores, _ = score_region(case_id, "tumour", reference, prediction, np.eye(3) * 10, LINE.size)
    return dataclasses.replace(scores, lesions_invented=invented)


# a, b and c hold 3 ml of tumour, of which only seed 0 finds c's; d holds none, and seed 1 claims 3 ml.
SEEDS = {
    0: [row("a", LINE, NOTHING), row("b", LINE, NOTHING), row("c", LINE, LINE), row("d", NOTHING, NOTHING)],
    1: [row("a", LINE, NOTHING), row("b", LINE, NOTHING), row("c", LINE, NOTHING), row("d", NOTHING, LINE, 1)],
}


def test_tumour_free_cases_stand_apart_by_hand():
    summary = summarise_seeds(SEEDS, PATIENTS)
    dice = summary["regions"]["tumour"]["dice"]
    assert (dice["mean"], dice["patients"]) == (pytest.approx((0 + 0 + 0.5) / 3), 3)
    assert summary["cases_with_region"] == {"tumour": 3}
    free = {"cases": 1, "with_prediction": 1, "ml": pytest.approx(1.5), "lesions": 0.5}
    assert summary["false_positives"]["tumour"] == free
    spread = summary["seeds"]["tumour"]["dice"]
    assert spread["means"] == {"0": pytest.approx(1 / 3), "1": 0}
    assert spread["sd"] == pytest.approx(np.std([1 / 3, 0], ddof=1))
    said = in_words({**summary, "also": {}})
    assert said.startswith("tumour: mean Dice 0.1667 over 3 cases that hold it (of 1 without it 1 with false positives")
    assert ", 3 patients; SD from seed to seed 0.2357" in said


def test_each_run_has_its_claims_beside_its_means():
    lines = table({(1, 0): SEEDS[1]}, {(1, 0): 2.0}).splitlines()
    assert lines[0].split()[-3:] == ["false", "ml", "minutes"]
    assert lines[1].split() == ["fold", "0,", "seed", "1", "tumour", "3", *["0.0000"] * 3, "–", "3.0", "2.0"]


def test_a_run_without_any_tumour_has_no_mean():
    rows = {0: [row("d", NOTHING, NOTHING)]}
    summary = summarise_seeds(rows, PATIENTS)
    assert summary["seeds"]["tumour"] == {}
    assert in_words({**summary, "also": {"else": {}}}).startswith("tumour: mean Dice – over 0 cases that hold it")
    assert "–" in table({(0, 0): rows[0]}, {(0, 0): 1.0})


def test_scores_on_other_data_without_tumours():
    summary = {**summarise_seeds(SEEDS, PATIENTS), "also": {"other": {"fold_0": {"tumour": {"dice": None}}}}}
    assert in_words(summary).splitlines()[1] == "other, tumour: no run scored"


def test_a_case_id_with_a_line_break_and_a_formula_stays_one_row():
    rows = {(0, 1): [row("=a\r\nb", LINE, LINE)]}
    (found,) = csv.DictReader(io.StringIO(folds_csv(rows), newline=""))
    assert (found["seed"], found["fold"], found["case_id"], found["dice"]) == ("0", "1", "'=a\r\nb", "1.0")
