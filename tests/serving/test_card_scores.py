"""What a model card says of the evaluations beside a run."""

from tf_liver.serving.card import score_lines


def test_tumour_scores_stand_beside_the_false_positives():
    dice = {"mean": 0.0, "sd": 0.1, "low": 0.0, "high": 0.3, "patients": 20}
    scores = {
        "evaluation": {
            "cases": 29,
            "cases_with_region": {"tumour": 20},
            "false_positives": {"tumour": {"cases": 9, "with_prediction": 2, "lesions": 3, "ml": 12.34}},
            "tumour": {"dice": dice, "rvd": {"mean": None, "sd": None}},
        }
    }
    assert score_lines(scores)[2:] == [
        "| evaluation | 20 | tumour | dice | 0.0000 | 0.1000 | 0.0000 | 0.3000 |",
        "",
        "evaluation: of 9 cases without tumour 2 with false positives, 12.3 ml in all.",
    ]


def test_an_old_evaluation_keeps_its_means_without_the_interval_that_covered_too_little():
    old = {"evaluation": {"cases": 3, "liver": {"dice": {"mean": 0.9, "sd": None, "low": 0.89, "high": 0.91}}}}
    assert score_lines(old)[2:] == ["| evaluation | 3 | liver | dice | 0.9000 |  |  |  |"]
    assert score_lines({}) == ["This checkpoint has not been evaluated."]
