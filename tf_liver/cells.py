"""CSV text that no spreadsheet takes for a formula, and that reads back as it was."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# What begins a formula (OWASP, CSV Injection), full-width forms too. Such a text gets an apostrophe in front, and so
# does one that would otherwise read back as if it had got one. A number is no formula.
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")
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


def read_csv(path: Path) -> tuple[list[str], list[dict[Any, Any]]]:
    """Return the columns of CSV that `to_csv` may have written, and its rows as csv.DictReader gives them.

    Raises:
        ValueError: not UTF-8, or no CSV; the message names the file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = [{name: unguard(value) for name, value in row.items()} for row in reader]
            columns = list(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not CSV: {error}") from error
    return columns, rows


def guard(value: Any) -> Any:
    """Return a text that begins like a formula with an apostrophe in front; anything else as it is."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def unguard(value: Any) -> Any:
    """Return what was given to `guard`."""
    return value[1:] if isinstance(value, str) and value[:1] == "'" and _FORMULA.match(value) else value
