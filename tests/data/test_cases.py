import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_liver.data import DataError, DataWarning
from tf_liver.data.cases import Case, Split, choose_split, find_cases, held_out_of, split_folds


def layout(folder, images, labels=None):
    for kind, names in (("imagesTr", images), ("labelsTr", images if labels is None else labels)):
        (folder / kind).mkdir(parents=True)
        for name in names:
            (folder / kind / name).touch()
    return folder


def case(number, patient=None):
    return Case(f"liver_{number}", None, None, patient or f"liver_{number}")


def test_cases_are_found_by_globbing_and_sorted_as_people_count(tmp_path):
    names = ["liver_10.nii.gz", "liver_2.nii", "._liver_2.nii", "._liver_10.nii.gz", "notes.txt"]
    assert [c.case_id for c in find_cases(layout(tmp_path, names))] == ["liver_2", "liver_10"]


def test_dataset_json_names_cases_and_patients(tmp_path):
    layout(tmp_path, ["a.nii.gz", "b.nii.gz", "c.nii.gz"])
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz", "patient": "p"} for n in "ab"]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background"}, "training": entries}))
    with pytest.raises(DataError, match="labels must be 0 background, 1 liver"):
        find_cases(tmp_path)
    labels = {"0": "background", "1": "liver", "2": "spleen"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "training": entries}))
    with pytest.raises(DataError, match="labels must be 0 background, 1 liver, 2 cancer"):
        find_cases(tmp_path)
    labels["2"] = "Tumour"
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "training": entries}))
    with pytest.warns(DataWarning, match="does not list c; left out"):
        found = find_cases(tmp_path)
    assert [(c.case_id, c.patient) for c in found] == [("a", "p"), ("b", "p")]


def test_a_digit_that_is_no_number_is_a_letter(tmp_path):
    names = ["\u00b2.nii", "\u0663.nii", "1.nii"]
    assert [c.case_id for c in find_cases(layout(tmp_path, names))] == ["1", "\u00b2", "\u0663"]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (["a.nii.gz"], [], "labelsTr: case a has no label"),
        ([], ["a.nii.gz"], "imagesTr: case a has no image"),
        ([], [], "must hold imagesTr/ and labelsTr/"),
        (["a.nii", "a.nii.gz"], ["a.nii"], "case a must have one file"),
    ],
)
def test_incomplete_folders_are_refused(tmp_path, images, labels, message):
    with pytest.raises(DataError, match=message):
        find_cases(layout(tmp_path, images, labels))


def test_missing_folder_says_where_the_data_belongs(tmp_path):
    with pytest.raises(DataError, match=r"Task03_Liver .* belongs there .*make demo"):
        find_cases(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", "[]", '{"training": [{"image": "x"}]}', '{"training": [3]}'])
def test_a_broken_dataset_json_is_named(tmp_path, text):
    layout(tmp_path, ["a.nii.gz"])
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json: not the dataset\.json of a Decathlon task"):
        find_cases(tmp_path)


@given(patients=st.lists(st.integers(0, 8), min_size=2, max_size=30), folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_folds_part_patients_and_hold_each_case_out_once(patients, folds, seed):
    cases = [case(i, f"p{p}") for i, p in enumerate(patients)]
    if len(set(patients)) < 2:
        with pytest.raises(DataError, match="at least 2 patients"):
            split_folds(cases, folds, seed)
        return
    splits = split_folds(cases, folds, seed)
    assert len(splits) == min(folds, len(set(patients)))
    assert sorted(c.case_id for s in splits for c in s.held_out) == sorted(c.case_id for c in cases)
    for split in splits:
        assert {c.patient for c in split.train}.isdisjoint(c.patient for c in split.held_out)
        assert sorted(split.case_ids["train"] + split.case_ids["held_out"]) == sorted(c.case_id for c in cases)
    assert splits == split_folds(list(reversed(cases)), folds, seed) or len(cases) > 1
    assert splits == split_folds(cases, folds, seed)


def test_a_patient_on_both_sides_is_refused():
    with pytest.raises(DataError, match="on both: p1"):
        Split((case(1, "p1"),), (case(2, "p1"),))


def test_a_fold_that_is_not_there_is_refused():
    with pytest.raises(DataError, match=r"fold: must lie in \[0, 2\] for 3 cases. Received: 3"):
        choose_split([case(i) for i in range(3)], folds=5, fold=3)


def test_own_data_scores_the_held_out_and_other_data_all_but_the_trained():
    cases, ids = [case(i) for i in range(4)], {"train": ["liver_0"], "held_out": ["liver_2"]}
    assert [c.case_id for c in held_out_of(cases, ids, other_data=False)] == ["liver_2"]
    with pytest.warns(DataWarning, match="trained on the patients of liver_0; not scored"):
        assert [c.case_id for c in held_out_of(cases, ids, other_data=True)] == ["liver_1", "liver_2", "liver_3"]
    with pytest.raises(DataError, match="Missing: liver_2"):
        held_out_of(cases[:2], ids, other_data=False)


def test_other_data_leaves_out_other_scans_of_a_training_patient():
    split = Split((case(0, "p0"),), (case(1, "p1"),)).case_ids
    with pytest.warns(DataWarning, match="patients of liver_7; not scored"):
        found = held_out_of([case(7, "p0"), case(8, "p1"), case(9)], split, other_data=True)
    assert [c.case_id for c in found] == ["liver_8", "liver_9"]
