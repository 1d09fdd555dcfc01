import csv
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_liver.cells import guard, read_csv, to_csv, unguard
from tf_liver.files import write_atomic

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", "=", "-", "+inf"]


@pytest.mark.parametrize("text", FORMULAS)
def test_row_89_no_cell_begins_a_formula(text):
    (cell,) = list(csv.reader(io.StringIO(to_csv(["a"], [{"a": text}]), newline="")))[1]
    assert cell == f"'{text}"
    assert unguard(cell) == text


@pytest.mark.parametrize("value", [-1.5, 3, None, "", "-1.5", "+2", "-1e-3", "liver_1", "'quoted'", "a=b", "1-2"])
def test_numbers_and_other_texts_stay(value):
    assert guard(value) == value
    assert unguard(value) == value


@given(text=st.text(alphabet="'=+-@\t\r\nab1,\"", max_size=6))
def test_what_was_written_is_read(text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    path.write_bytes(to_csv(["a", "b"], [{"a": text, "b": -1}]).encode())
    assert read_csv(path) == (["a", "b"], [{"a": text, "b": "-1"}])


def test_names_that_are_no_utf8_are_read_back(tmp_path):
    name = os.fsdecode(b"M\xfcller")
    write_atomic(tmp_path / "cells.csv", to_csv(["case_id"], [{"case_id": name}]))
    assert read_csv(tmp_path / "cells.csv") == (["case_id"], [{"case_id": name}])
