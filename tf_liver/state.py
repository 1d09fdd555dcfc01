"""The complete state of a training in one checked file, from which it goes on as if it had never stopped.

    state-<finished epochs>-<steps after them>.npz      NumPy's format, then 16 bytes: XXH3-128 of all before them

One file holds everything, so no two files can disagree. It is written beside, fsynced and renamed; the two newest
are kept. What cannot be read whole is set aside, and the one before it is used.
"""

import dataclasses
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tf_liver import files
from tf_liver.experiment import ADDED
from tf_liver.history import Row

KEPT = 2
_DIGEST = xxhash.xxh3_128().digest_size


class StateError(ValueError):
    """A state that is damaged, or belongs to another training."""


@dataclass
class State:
    """Where a training stands. The order of the data and all augmentation follow from `facts`, epoch and step.

    facts: experiment, seed, fold and cases, which must be the same to go on.
    epoch, step: finished epochs, and steps done in the one after them.
    rows: a row of log.csv for each finished epoch.
    waited_s, trained_s: seconds spent in the unfinished epoch, waiting for input and in all.
    names, arrays: every variable: weights and their averages, optimizer with its loss scale, running metrics.
    """

    facts: dict[str, Any]
    epoch: int = 0
    step: int = 0
    rows: list[Row] = field(default_factory=list)
    waited_s: float = 0.0
    trained_s: float = 0.0
    names: list[str] = field(default_factory=list)
    arrays: list[np.ndarray] = field(default_factory=list)

    @property
    def file_name(self) -> str:
        """The name of its file; names sort by progress."""
        return f"state-{self.epoch:07}-{self.step:09}.npz"

    def check(self, facts: dict[str, Any], names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> None:
        """Raise StateError if the state was trained with other facts or other variables; the message says which."""
        if found := difference(_complete(self.facts), _complete(facts)):
            raise StateError(f"the state belongs to another training: {found}")
        for theirs, array, name, shape in zip(self.names, self.arrays, names, shapes, strict=False):
            if array.shape != shape:
                raise StateError(
                    f"the state is of another network: {theirs} is {array.shape}. Received: {name}, {shape}"
                )
        if len(self.names) != len(names):
            raise StateError(f"the state is of another network: {len(self.names)} variables. Received: {len(names)}")


def save_state(folder: Path, state: State) -> None:
    """Write a state into a folder and remove all but the newest two.

    Raises:
        OSError: no space, no permission; the states that lie there already are kept.
    """
    meta = {f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.name != "arrays"}
    with files.replacing(folder / state.file_name) as beside:
        with open(beside, "wb") as file:
            arrays: dict[str, Any] = {str(n): array for n, array in enumerate(state.arrays)}
            np.savez(file, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
        digest = xxhash.xxh3_128()
        with open(beside, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        with open(beside, "ab") as file:
            file.write(digest.digest())
    for path in _states(folder)[KEPT:]:
        path.unlink()


def read_state(path: Path) -> State:
    """Return the state in a file.

    Raises:
        StateError: not one byte more, less or different is accepted; the message names the file.
    """
    if what := files.irregular(path):
        raise StateError(f"{path}: must be a file. Received: {what}")
    data = path.read_bytes()
    body, digest = memoryview(data)[:-_DIGEST], data[-_DIGEST:]
    if xxhash.xxh3_128_digest(body) != digest:
        raise StateError(f"{path}: damaged or cut short: its checksum does not fit its {len(data)} bytes")
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            meta = json.loads(arrays["meta"].tobytes())
            return State(**meta, arrays=[arrays[str(n)] for n in range(len(meta["names"]))])
    except (ValueError, KeyError, TypeError, EOFError, RecursionError, zipfile.BadZipFile, zlib.error) as error:
        raise StateError(f"{path}: no state as this version writes it: {error!r}") from error


def newest_state(folder: Path) -> State | None:
    """Return the newest whole state in a folder, or None where there never was one.

    What is damaged is renamed to damaged-… and named on stderr.

    Raises:
        StateError: there are states, but none is whole.
    """
    found = _states(folder)
    for path in found:
        try:
            return read_state(path)
        except StateError as error:
            aside = path.with_name(f"damaged-{path.name}")
            path.rename(aside)
            print(f"warning: {error}; set aside as {aside.name}, going back to the state before it", file=sys.stderr)
    if found or list(folder.glob("damaged-state-*.npz")):
        raise StateError(f"{folder}: a whole state is needed to go on. Received: {_named(found)}, damaged")
    return None


def _named(states: Sequence[Path]) -> str:
    return ", ".join(path.name for path in states) or "older ones"


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for kind in ("state-*.npz", "*.weights.h5", "hashes.json"):
        for path in folder.glob(f".*.{kind}"):
            path.unlink()


def _complete(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts with the fields that experiments did not have when a state was written."""
    return {**facts, "experiment": {**ADDED, **facts.get("experiment", {})}}


def difference(old: dict[str, Any], new: dict[str, Any], where: str = "") -> str | None:
    """Return what the first difference between two tables is, in words; None if they are equal."""
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            if found := difference(a, b, f"{where}{name}."):
                return found
        elif a != b:
            return f"{where}{name} is {a!r} there. Received: {b!r}"
    return None


def _states(folder: Path) -> list[Path]:
    """Return the states in a folder, newest first."""
    return sorted(folder.glob("state-*.npz"), reverse=True)
