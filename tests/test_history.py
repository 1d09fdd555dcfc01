"""The rows of log.csv."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_liver.history import MONITOR, best_row, write_log

scores = st.lists(st.sampled_from([0.0, 0.3, 0.30005, 0.5, 0.7, 0.7002, 0.9]), min_size=1, max_size=30)


def rows_of(values):
    return [{"epoch": n, MONITOR: value} for n, value in enumerate(values)]


@given(scores)
def test_the_first_of_the_best_is_best(values):
    assert best_row(rows_of(values))["epoch"] == int(np.argmax(values))


def test_before_the_first_epoch():
    assert best_row([]) is None


def test_the_log_is_written_whole(tmp_path):
    rows = [{"epoch": 0, "loss": 0.1 + 0.2, "dice": 1 / 3}, {"epoch": 1, "loss": 1e-9, "dice": 0.5}]
    write_log(tmp_path / "log.csv", rows)
    with open(tmp_path / "log.csv") as file:
        found = list(csv.DictReader(file))
    assert [{k: pytest.approx(float(v), abs=0) for k, v in row.items()} for row in found] == rows
    assert list(found[0]) == ["epoch", "dice", "loss"]
