import csv
import json

import numpy as np
import pytest
from scipy import stats

from tf_liver.volume.compare import MIN_PAIRS, compare, table

RNG = np.random.default_rng(3)
FIRST = RNG.uniform(0.8, 0.9, 12)
SECOND = FIRST + RNG.normal(0.01, 0.02, 12)


def write(folder, dice, patients=None, reference_ml=1500.0, region="liver"):
    """An evaluation folder with one score a case."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "region", "dice", "reference_ml"])
        for number, value in enumerate(dice):
            writer.writerow([f"c{number}", region, "" if value is None else value, reference_ml])
    if patients:
        table = {f"c{number}": patient for number, patient in enumerate(patients)}
        (folder / "summary.json").write_text(json.dumps({"patients": table}))
    return folder


def dice_of(comparison):
    return comparison["regions"]["liver"]["dice"]


def test_equal_to_scipy(tmp_path):
    test = dice_of(compare(write(tmp_path / "a", FIRST), write(tmp_path / "b", SECOND)))
    assert test["p"] == pytest.approx(stats.wilcoxon(SECOND, FIRST).pvalue)
    assert (test["first_mean"], test["second_mean"]) == pytest.approx((FIRST.mean(), SECOND.mean()))
    assert test["median_difference"] == pytest.approx(np.median(SECOND - FIRST))
    assert (test["patients"], test["pairs"], test["undefined"], test["enough_pairs"]) == (12, 12, 0, True)


def test_by_hand(tmp_path):
    """Six differences, all to one side: of the 2⁶ signs two are as far out."""
    a, b = write(tmp_path / "a", [0.1] * 6), write(tmp_path / "b", [0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert dice_of(compare(a, b))["p"] == pytest.approx(2 / 2**6)
    assert MIN_PAIRS == 6


def test_a_patient_counts_once(tmp_path):
    """Two scans each: pairs are of the patients' means."""
    patients = [f"p{number // 2}" for number in range(12)]
    a, b = write(tmp_path / "a", FIRST, patients), write(tmp_path / "b", SECOND)
    test = dice_of(compare(a, b))
    means = [values.reshape(6, 2).mean(axis=1) for values in (FIRST, SECOND)]
    assert test["patients"] == 6
    assert test["p"] == pytest.approx(stats.wilcoxon(*means).pvalue)


def test_equal_runs_undefined_values_and_few_pairs(tmp_path):
    a = write(tmp_path / "a", [0.5, 0.6, 0.7, None])
    same = compare(a, a)
    assert dice_of(same) == {
        **{"patients": 3, "undefined": 1, "pairs": 0, "p": None, "enough_pairs": False},
        **{"first_mean": pytest.approx(0.6), "second_mean": pytest.approx(0.6), "median_difference": 0},
    }
    assert "equal" in table(same)
    few = compare(a, write(tmp_path / "b", [0.5, 0.7, None, None]))
    assert (dice_of(few)["pairs"], dice_of(few)["undefined"], dice_of(few)["p"]) == (1, 2, 1)
    assert "1 of 1 scores differ in fewer than 6 patients: too few pairs for any p below 0.05" in table(few)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda p: write(p, FIRST[:-2]), r"the same cases. Only in .*a, not in .*b: c10 \(liver\), c11 \(liver\)"),
        (lambda p: write(p, FIRST, region="tumour"), r"the same cases. Only in .*: c0 \(liver\), "),
        (lambda p: write(p, FIRST, reference_ml=1400), r"case c0, liver: .* same reference .* 1500 and 1400 ml"),
        (lambda p: p, "no evaluation: metrics.csv is missing"),
        (lambda p: write(p, []), "holds no case"),
        (lambda p: write(p, ["good"] * 12), "case c0: scores must be numbers"),
    ],
)
def test_what_cannot_be_compared_is_named(tmp_path, second, message):
    a = write(tmp_path / "a", FIRST)
    with pytest.raises(ValueError, match=message):
        compare(a, second(tmp_path / "b"))


def test_an_older_table_is_refused(tmp_path):
    a = write(tmp_path / "a", FIRST)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "metrics.csv").write_text("case_id,dice,note\nc0,0.5,\n")
    with pytest.raises(ValueError, match="must have columns case_id and region; evaluate again"):
        compare(a, tmp_path / "b")
