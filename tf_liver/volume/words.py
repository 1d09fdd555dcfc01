"""Scores in words: titles of columns, and numbers as they are shown; what is undefined is a dash with its reason."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

_NAMES = {"dice": "Dice", "iou": "IoU", "sd": "SD", "ml": "ml", "mm": "mm"}
_ACRONYMS = {"nsd", "assd", "asd", "msd", "rmsd", "hd", "hd95", "hd100", "voe", "rvd", "rmse"}
# What a reader looks at first; the other columns come after it, at a wish.
_FIRST = ("dice", "iou", "nsd_2mm", "hd95_mm", "assd_mm", "reference_ml", "prediction_ml", "volume_difference_ml")
FEW_COLUMNS = 9
SHARES = ("dice", "iou", "precision", "recall", "nsd")


@dataclass(frozen=True)
class Cell:
    """One value: its text, or None and the reason; `sort` is empty where there is nothing to sort by."""

    text: str | None
    sort: str = ""
    reason: str = ""
    link: str = ""


@dataclass(frozen=True)
class Column:
    """A column of metrics.csv. kind: number or text; `more`: shown at a wish only."""

    key: str
    title: str
    kind: str
    more: bool
    sorted: bool


def columns_of(rows: Sequence[dict[str, str]], applies: Collection[str]) -> list[Column]:
    """Return the columns of a region's rows, those that are looked at first in front, text at the end.

    Every column is there, known or not, but those that are empty and not among the scores that apply to the region.
    """
    keys = [key for key in rows[0] if key not in ("case_id", "region")]
    keys = [key for key in keys if key in applies or any(row[key] for row in rows)]
    text = {key for key in keys if any(row[key] and number(row[key]) is None for row in rows)}
    numbers = sorted((k for k in keys if k not in text), key=_place)
    few = len(keys) < FEW_COLUMNS
    return [
        Column("case_id", "case", "text", False, False),
        *(Column(k, score_title(k), "number", _place(k) == len(_FIRST) and not few, k == "dice") for k in numbers),
        *(Column(k, score_title(k), "text", False, False) for k in keys if k in text),
    ]


def _place(key: str) -> int:
    return _FIRST.index(key) if key in _FIRST else len(_FIRST)


def score_title(key: str) -> str:
    """Return a column's name as people write it: hd95_mm → HD95, mm; nsd_2mm → NSD 2 mm."""
    key, unit = re.fullmatch(r"(.*?)(_mm|_ml|_percent|_hu)?", key).groups()  # type: ignore[union-attr]
    words = [re.sub(r"^(\d.*)mm$", "\\1\N{NO-BREAK SPACE}mm", word) for word in key.split("_")]
    words = [_NAMES.get(w, w.upper() if w in _ACRONYMS else w) for w in words]
    units = {None: "", "_mm": ", mm", "_ml": ", ml", "_percent": ", %", "_hu": ", HU"}
    return " ".join(words) + units[unit]


def number(text: object) -> float | None:
    """Return a value as a finite number, or None."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def known(text: str, otherwise: float) -> float:
    """Return a value as a finite number, or what stands for it."""
    value = number(text)
    return otherwise if value is None else value


def number_cell(key: str, text: object, reason: str) -> Cell:
    """Return a score as it is shown: as many digits as its unit can bear, or a dash and the reason."""
    value = number(text)
    if value is None:
        return Cell(None, reason=reason)
    if re.fullmatch(r"-?\d+", str(text)) and not key.startswith(SHARES):
        shown = f"{value:,.0f}"
    elif key.endswith(("_mm", "_ml", "_percent", "_hu")):
        shown = f"{value:,.1f}"
    else:
        shown = f"{value:.3f}"
    if "difference" in key and value > 0:
        shown = f"+{shown}"
    return Cell(shown.replace("-", "−"), sort=repr(value))
