"""CSV text that no spreadsheet takes for a formula, and that reads back as it was."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tf_liver.files import irregular

# What begins a formula (OWASP, CSV Injection), full-width forms too. Such a text gets an apostrophe in front, and so
# does one that would otherwise read back as if it had got one. A number is no formula.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
_ESCAPE = re.compile(r"\\u(dc[89a-f][0-9a-f])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class _Lines(list[str]):
    """A file as csv needs one: it writes a whole line at a time."""

    def write(self, line: str) -> None:
        self.append(line)


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a header line; what a row does not hold is empty."""
    lines = _Lines()
    # The csv module of Python 3.11 quotes \r only where it is part of the end of a line.
    writer = csv.DictWriter(lines, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: guard(value) for name, value in row.items()} for row in rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns of CSV that `to_csv` may have written, and its rows: column → cell.

    Raises:
        ValueError: no file, not UTF-8, no CSV, or a row of more or fewer cells than columns; the message names it.
    """
    if what := irregular(path):
        raise ValueError(f"{path}: must be a file. Received: {what}")
    try:
        # Bytes of a file name that are no UTF-8 were written with escapes, see files.write_atomic.
        text = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), path.read_bytes().decode())
        lines = [list(map(unguard, row)) for row in csv.reader(io.StringIO(text, newline="")) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not CSV: {error}") from error
    columns, *rows = lines or [[]]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            rule = f"must hold whole rows, of {len(columns)} cells"
            raise ValueError(f"{path}: {rule}. Received: {len(row)} in row {number}")
    if text and not text.endswith(("\r", "\n")):
        raise ValueError(f"{path}: must end with the end of a line. Received: {text[-40:]!r}, cut short")
    return columns, [dict(zip(columns, row, strict=True)) for row in rows]


def guard(value: Any) -> Any:
    """Return a text that begins like a formula with an apostrophe in front; anything else as it is."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def unguard(value: Any) -> Any:
    """Return what was given to `guard`."""
    return value[1:] if isinstance(value, str) and value[:1] == "'" and _FORMULA.match(value) else value
