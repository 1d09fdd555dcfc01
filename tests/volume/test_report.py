import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from evaluations import LOG, write_evaluation

from tf_liver.data import DataError
from tf_liver.data.cases import find_cases
from tf_liver.volume.evaluation import read_evaluation
from tf_liver.volume.report import write_report
from tf_liver.volume.words import columns_of, number_cell, score_title


class Page(HTMLParser):
    """What a page holds: tags with their attributes, ids, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def change_rows(folder, change):
    """Rewrite metrics.csv with `change(row)` done to each row."""
    with open(folder / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        change(row)
    with open(folder / "metrics.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def page(evaluated, phantoms, tmp_path_factory):
    folder = shutil.copytree(evaluated, tmp_path_factory.mktemp("page") / "evaluation")
    run = tmp_path_factory.mktemp("run")
    (run / "log.csv").write_text(LOG)
    path = write_report(folder, find_cases(phantoms), run)
    assert path == folder / "report.html"
    return Page(path)


def test_everything_is_in_the_one_file(page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not {"iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert len(page.all("style")) == len(page.all("script")) == 1


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [a[n][1:] for _, a in page.tags for n in ("href", "xlink:href") if a.get(n, "").startswith("#")]
    wanted += [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    assert wanted
    assert set(wanted) <= set(ids)


def test_every_picture_has_words(page):
    pictures = [a for tag, a in page.tags if a.get("role") == "img"]
    assert len(pictures) > 4 * 2 * 5, "five planes twice a case, and charts"
    assert all(len(a["aria-label"]) > 20 for a in pictures)
    assert all("aria-hidden" in a or a.get("role") == "img" for a in page.all("svg"))


def test_cases_stand_worst_first_and_all_of_them(page):
    anchors = [a["id"] for a in page.all("article")]
    assert anchors == ["case-3", "case-2", "case-1", "case-0"]
    for chart in ("Bland–Altman", "Learning curves", "best 0.800, epoch 2", "95 % limits of agreement"):
        assert chart in page.text


COLUMNS = ("case_id", "region", "dice", "reference_ml", "prediction_ml")
# Two of four cases hold no tumour; in c the model claims one, and d is perfect.
SCORED = [
    *(("a", "liver", 0.9, 1500, 1400), ("a", "tumour", 0.0, 4, 0)),
    *(("b", "liver", 0.8, 1500, 1400), ("b", "tumour", 0.0, 9, 0)),
    *(("c", "liver", 0.95, 1500, 1400), ("c", "tumour", 0.0, 0, 2.5)),
    *(("d", "liver", 0.99, 1500, 1500), ("d", "tumour", 1.0, 0, 0)),
]


def old_evaluation(folder):
    """An evaluation folder as they were before tumour-free cases stood apart."""
    folder.mkdir()
    with open(folder / "metrics.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *SCORED])
    figures = {"mean": 0.25, "sd": 0.5, "median": 0, "q1": 0, "q3": 0.25, "low": 0, "high": 0.75, "undefined": 0}
    summary = {"cases": 4, "regions": {region: {"dice": figures} for region in ("liver", "tumour")}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_tumour_free_cases_stand_apart_even_of_an_older_evaluation(tmp_path):
    folder = old_evaluation(tmp_path / "evaluation")
    evaluation = read_evaluation(folder)
    assert evaluation.figures_of("tumour")["dice"]["mean"] == 0
    assert evaluation.figures_of("liver")["dice"]["mean"] == pytest.approx(np.mean([0.9, 0.8, 0.95, 0.99]))
    assert evaluation.summary["false_positives"]["tumour"] == {"cases": 2, "with_prediction": 1, "ml": 2.5}
    text = " ".join(Page(write_report(folder, [], None)).text.split())
    assert "Means are over the 2 of 4 cases whose reference holds it." in text
    assert re.search(r"false positives, cases without it ?1 of 2 ?2\.5 ml", text)
    assert "liver Dice 0.950 · no tumour, 2.5 ml claimed" in text
    assert "no 95 % CI: 2 patients, at least 3 are needed" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_each_region_has_its_own_worst(tmp_path):
    """Of equal Dice the larger volume; what neither mask holds is not among them."""
    evaluation = read_evaluation(old_evaluation(tmp_path / "evaluation"))
    order = {region: [row["case_id"] for row in evaluation.worst_first(region)] for region in ("liver", "tumour")}
    assert order == {"liver": ["b", "a", "c", "d"], "tumour": ["b", "a", "c"]}
    page = Page(write_report(evaluation.folder, [], None))
    links = [a["href"] for a in page.all("a")][: 2 * 3]
    assert links == [f"#case-{number}" for number in (1, 0, 2, 1, 0, 2)]
    assert [a["id"] for a in page.all("article")] == ["case-1", "case-0", "case-2", "case-3"]


def test_a_reason_given_goes_before_one_derived(evaluation):
    change_rows(evaluation, lambda row: row.update(note="the reader fell asleep"))
    assert {row["note"] for row in read_evaluation(evaluation).rows} == {"the reader fell asleep"}


HOSTILE = "<script>alert(1)</script>$x$\"'"


@pytest.fixture(scope="module")
def odd(evaluated, phantoms, tmp_path_factory):
    """The page of an evaluation in which nothing went as it should."""
    folder = shutil.copytree(evaluated, tmp_path_factory.mktemp("odd") / "evaluation")
    (folder / "predictions" / "phantom_00.nii.gz").write_bytes(b"rubbish")
    (folder / "predictions" / "phantom_02.nii.gz").unlink()
    summary = json.loads((folder / "summary.json").read_text())
    summary["failed"] = {"phantom_99": "damaged <gzip> stream"}
    (folder / "summary.json").write_text(json.dumps(summary))
    change_rows(folder, lambda row: row.update(brand_new="0.125", remark="as <b>is</b>"))
    change_rows(folder, lambda row: row.update(case_id=row["case_id"].replace("phantom_01", HOSTILE)))
    return Page(write_report(folder, find_cases(phantoms), None))


def test_one_bad_case_costs_its_own_pictures_only(odd):
    assert odd.text.count("No pictures: ") == 3
    assert "phantom_00.nii.gz: not a NIfTI file" in odd.text
    assert "No pictures: the scan is not in the data folder" in odd.text
    assert "phantom_02.nii.gz" in odd.text
    assert len(odd.all("article")) == 4
    assert sum(a.get("class") == "plane" for a in odd.all("figure")) == 5
    assert "Learning curves" not in odd.text


def test_scores_that_nobody_foretold_are_shown_and_undefined_ones_are_dashes(odd):
    assert odd.text.count("brand new") >= 2
    assert odd.text.count("0.125") >= 4
    reasons = {a["title"] for a in odd.all("span") if a.get("class") == "undefined"}
    assert "no liver in prediction" in reasons


def test_names_and_words_are_escaped(odd):
    """Otherwise the parser would have taken them for tags."""
    for text in (HOSTILE, "as <b>is</b>", "damaged <gzip> stream"):
        assert text in odd.text
    assert len(odd.all("script")) == 1
    assert "Not scored: 1" in odd.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", None, "not an evaluation folder: metrics.csv is missing"),
        ("summary.json", None, "not an evaluation folder: summary.json is missing"),
        ("summary.json", "{", "summary.json: not JSON"),
        ("summary.json", "[]", "must hold an object"),
        ("metrics.csv", "", "must hold whole rows with case_id, region and dice. Received: no rows"),
        ("metrics.csv", "case_id,dice\na,1\n", "Received: case_id, dice"),
        ("metrics.csv", "case_id,region,dice\na,liver\n", "must hold whole rows"),
        ("metrics.csv", b"\xff\xfe\x00", "metrics.csv: not CSV"),
    ],
)
def test_other_folders_are_refused(evaluation, name, content, message):
    path = evaluation / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_evaluation(evaluation)


def test_one_case_has_no_spread_and_no_tumour_no_table(phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "data", ignore=shutil.ignore_patterns("phantom_0[123]*", "dataset.json"))
    folder = write_evaluation(tmp_path / "evaluation", tmp_path / "data", lambda _, labels: np.minimum(labels, 1), 1)
    page = Page(write_report(folder, find_cases(tmp_path / "data"), None))
    assert "Dice, one case" in page.text
    for missing in ("Bland–Altman", "Box plots", "Tumour", "Look at these first"):
        assert missing not in page.text


@pytest.mark.parametrize(
    ("key", "text", "shown"),
    [
        ("dice", "1", "1.000"),
        ("dice", "0.93914", "0.939"),
        ("hd95_mm", "12.3456", "12.3"),
        ("volume_difference_ml", "-1234.56", "−1,234.6"),
        ("volume_difference_ml", "86.04", "+86.0"),
        ("lesions_found", "3", "3"),
        ("dice", "", None),
        ("dice", "nan", None),
        ("assd_mm", "inf", None),
    ],
)
def test_numbers_are_shown_as_their_unit_can_bear(key, text, shown):
    cell = number_cell(key, text, "because")
    assert cell.text == shown
    assert bool(cell.sort) == (shown is not None)
    assert cell.reason == ("because" if shown is None else "")


def test_columns_in_words():
    titles = {
        "nsd_2mm": "NSD 2\N{NO-BREAK SPACE}mm",
        "hd95_mm": "HD95, mm",
        "volume_difference_percent": "volume difference, %",
    }
    assert {key: score_title(key) for key in titles} == titles
    row = {
        "case_id": "a",
        "region": "liver",
        "zeta": "1",
        "dice": "0.5",
        "lesions_found": "",
        "hd95_mm": "",
        "note": "",
    }
    columns = [c.key for c in columns_of([row], applies=("dice", "hd95_mm"))]
    assert columns == ["case_id", "dice", "hd95_mm", "zeta"], "what does not apply is not there; what is undefined is"


@pytest.mark.slow
def test_thirty_cases_of_real_size_stay_under_15_mb(tmp_path):
    """Two noisy scans of 512² pixels under fifteen names each: noise is the worst that a picture can hold."""
    from tf_liver.data.phantom import write_phantoms

    data, folder = tmp_path / "data", tmp_path / "evaluation"
    list(write_phantoms(data, cases=2, seed=3, size=512, vary=0.0))
    write_evaluation(folder, data, lambda number, labels: np.roll(labels, 5 + number, 0))
    cases = [replace(case, case_id=f"{case.case_id}_{copy}") for copy in range(15) for case in find_cases(data)]
    for case in cases:
        original = folder / "predictions" / f"{case.case_id.rpartition('_')[0]}.nii.gz"
        original.with_name(f"{case.case_id}.nii.gz").hardlink_to(original)
    rows = read_evaluation(folder).rows
    with open(folder / "metrics.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "case_id": f"{row['case_id']}_{copy}"} for copy in range(15) for row in rows)
    path = write_report(folder, cases, None)
    assert len(Page(path).all("article")) == 30
    assert 2e6 < path.stat().st_size < 15e6
