"""What a server answers is checked before it is believed: type, shape, values, size, and the text that is shown."""

import json
import unicodedata
from typing import Any

import numpy as np

from tf_liver.data import TUMOUR

# Beside the labels themselves: names, braces, a PNG's chunks. Metadata of an export are a few KiB.
MARGIN_BYTES = 64 << 10
METADATA_BYTES = 4 << 20
MOST_TEXT = 200
MOST_NEIGHBOURS = 8  # as in an experiment


class AnswerError(ValueError):
    """An answer that breaks a rule; the message says which, the client adds the server's name."""


def plain(text: str) -> str:
    """Return text of a stranger in one line that a terminal can be given: no control characters, not long."""
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: 8 * MOST_TEXT])
    line = " ".join(kept.split())
    return line if len(line) <= MOST_TEXT else line[: MOST_TEXT - 1] + "…"


def checked_labels(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a label map (B, H, W) uint8 of the values 0, 1 and 2.

    Raises:
        AnswerError: another type, shape or value.
    """
    if labels.shape != shape or labels.dtype != np.uint8:
        raise AnswerError(
            f"must answer with uint8 labels {shape}. Received: {labels.dtype} {labels.shape}; is it another model?"
        )
    if labels.size and labels.max() > TUMOUR:
        raise AnswerError(f"labels must be 0, 1 or {TUMOUR}. Received: {labels.max()}; is it another model?")
    return labels


def checked_metadata(text: str | bytes) -> dict[str, Any]:
    """Return what a model says of itself.

    Raises:
        AnswerError: not a JSON object, or neighbours that are no small number.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"the answer must be metadata in JSON: {plain(str(error))}") from error
    if not isinstance(said, dict):
        raise AnswerError(f"the answer must be metadata, a JSON object. Received: {type(said).__name__}")
    neighbours = said.get("neighbours", 0)
    if type(neighbours) is not int or not 0 <= neighbours <= MOST_NEIGHBOURS:
        raise AnswerError(f"neighbours must be from 0 to {MOST_NEIGHBOURS}. Received: {plain(repr(neighbours))}")
    return said
