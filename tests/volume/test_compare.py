import csv
import json

import numpy as np
import pytest
from scipy import stats

from tf_liver.volume.compare import MIN_PAIRS, compare, table
from tf_liver.volume.intervals import mean_interval

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


def write_rows(folder, rows):
    """An evaluation folder with any rows: case_id, region, scores by name."""
    folder.mkdir()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_the_difference_has_its_interval(tmp_path):
    test = dice_of(compare(write(tmp_path / "a", FIRST), write(tmp_path / "b", SECOND)))
    assert test["mean_difference"] == pytest.approx((SECOND - FIRST).mean())
    assert (test["low"], test["high"]) == pytest.approx(mean_interval(SECOND - FIRST, (-1, 1)))
    rows = [
        [{"case_id": n, "region": "liver", "rvd": x, "reference_ml": 1} for n, x in enumerate(v)]
        for v in (FIRST, SECOND)
    ]
    a, b = (write_rows(tmp_path / name, some) for name, some in zip("cd", rows, strict=True))
    test = compare(a, b)["regions"]["liver"]["rvd"]
    expected = stats.t.interval(0.98, 11, (SECOND - FIRST).mean(), stats.sem(SECOND - FIRST))
    assert (test["low"], test["high"]) == pytest.approx(expected)


def test_the_region_that_both_have_is_compared_and_the_other_named(tmp_path):
    row = {"region": "liver", "reference_ml": 1500}
    of_liver = [{**row, "case_id": n, "dice": x} for n, x in enumerate(FIRST)]
    of_tumour = [{**one, "region": "tumour"} for one in of_liver]
    a, b = write_rows(tmp_path / "a", of_liver), write_rows(tmp_path / "b", of_liver + of_tumour)
    comparison = compare(a, b)
    assert list(comparison["regions"]) == ["liver"]
    assert comparison["left_out_regions"] == ["tumour"]
    assert "not compared, for one side alone has it: tumour" in table(comparison)


def test_tumour_free_cases_are_compared_apart(tmp_path):
    """By hand: two cases with tumour; in the third, without, the second model claims 5 ml less."""
    names = ("case_id", "region", "dice", "reference_ml", "prediction_ml", "lesions_invented")
    first = [("a", "tumour", 0.2, 10, 9, 0), ("b", "tumour", 0.4, 20, 9, 1), ("c", "tumour", 0, 0, 7, 3)]
    second = [("a", "tumour", 0.4, 10, 9, 0), ("b", "tumour", 0.7, 20, 9, 1), ("c", "tumour", 0, 0, 2, 1)]
    a, b = (
        write_rows(tmp_path / name, [dict(zip(names, row, strict=True)) for row in rows])
        for name, rows in (("a", first), ("b", second))
    )
    regions = compare(a, b)["regions"]
    assert list(regions) == ["tumour", "tumour, false positives"]
    assert (regions["tumour"]["dice"]["first_mean"], regions["tumour"]["dice"]["patients"]) == (pytest.approx(0.3), 2)
    assert regions["tumour"]["dice"]["mean_difference"] == pytest.approx(0.25)
    assert regions["tumour"]["dice"]["no_interval"] == "2 patients, at least 3 are needed"
    claims = regions["tumour, false positives"]
    assert {name: test["mean_difference"] for name, test in claims.items()} == {
        "prediction_ml": -5,
        "lesions_invented": -2,
    }


def test_p_is_corrected_by_holm(tmp_path):
    """By hand: p 2/2⁷, 1 and 2/2⁶ of three scores become 3, 1 and 2 times as much, at most 1."""
    row = {"region": "liver", "reference_ml": 1}
    up, ties = np.arange(1, 8) / 100, [0.01, -0.01, 0, 0, 0, 0, 0]
    six = [*(np.arange(1, 7) / 100), 0]
    first = [{**row, "case_id": n, "dice": 0.5, "iou": 0.5, "voe": 0.5, "recall": 0.1} for n in range(7)]
    second = [
        {**row, "case_id": n, "dice": 0.5 + up[n], "iou": 0.5 + ties[n], "voe": 0.5 + six[n], "recall": 0.1}
        for n in range(7)
    ]
    comparison = compare(write_rows(tmp_path / "a", first), write_rows(tmp_path / "b", second))
    tests = comparison["regions"]["liver"]
    assert {name: test["p_holm"] for name, test in tests.items()} == {
        "dice": pytest.approx(3 * 2 / 2**7),
        "voe": pytest.approx(2 * 2 / 2**6),
        "iou": 1,
        "recall": None,
    }
    assert "corrected for 3 scores (Holm 1979)" in table(comparison)
    assert "Holm" in comparison["correction"]


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
    low, high = mean_interval(np.zeros(3), (-1, 1))
    assert dice_of(same) == {
        **{"patients": 3, "undefined": 1, "pairs": 0, "p": None, "p_holm": None, "enough_pairs": False},
        **{"first_mean": pytest.approx(0.6), "second_mean": pytest.approx(0.6), "median_difference": 0},
        **{"mean_difference": 0, "low": low, "high": high},
    }
    assert "equal" in table(same)
    few = compare(a, write(tmp_path / "b", [0.5, 0.7, None, None]))
    assert (dice_of(few)["pairs"], dice_of(few)["undefined"], dice_of(few)["p"]) == (1, 2, 1)
    assert "1 of 1 scores differ in fewer than 6 patients: too few pairs for any p below 0.05" in table(few)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda p: write(p, FIRST[:-2]), r"the same cases. Only in .*a, not in .*b: c10 \(liver\), c11 \(liver\)"),
        (lambda p: write(p, FIRST, region="tumour"), "must hold one region. Received: liver and tumour"),
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
