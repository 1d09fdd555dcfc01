"""Progress on the terminal: a bar where somebody looks, plain lines where nobody does."""

import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

# Its thread, which looks after bars that stand still, would forbid the forks of processes.py.
tqdm.monitor_interval = 0


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield the items under a progress bar; in a file or pipe, one line says what goes on."""
    if not sys.stderr.isatty():
        print(f"{what}: {total}", flush=True)
        yield from items
        return
    yield from tqdm(items, what, total, leave=False)


def show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print our own warnings as a line; those of libraries are for their developers."""
    if category.__module__.startswith("tf_liver"):
        print(f"warning: {message}", file=sys.stderr)


def write_anything() -> None:
    """Let what a terminal's encoding lacks, or a file name that is no UTF-8, come out as `?`, never as an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
