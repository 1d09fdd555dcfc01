"""Work over many files in several processes."""

import itertools
import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TypeVar

from tf_liver.progress import show_warning

T = TypeVar("T")
Result = TypeVar("Result")


def in_processes(work: Callable[..., Result], items: Sequence[T], workers: int, *others: object) -> Iterator[Result]:
    """Yield `work(item, *others)` for each item, in order, from several processes; in this one if one is enough.

    What has not begun when an error comes up, or the caller stops, is not begun any more.

    Raises:
        MemoryError: a process was killed.
    """
    if min(workers, len(items)) < 2:
        yield from (work(item, *others) for item in items)
        return
    # A fork begins at once, but threads do not survive it, and TensorFlow has some: then a fresh start, 0.5 s.
    alone = sys.platform == "linux" and "tensorflow" not in sys.modules and threading.active_count() == 1
    context = multiprocessing.get_context("fork" if alone else "spawn")
    with ProcessPoolExecutor(min(workers, len(items)), context, _begin) as pool:
        try:
            yield from pool.map(work, items, *(itertools.repeat(other) for other in others))
        except BrokenProcessPool as error:
            raise MemoryError("a worker was killed, most likely for lack of memory; lower --workers") from error


def _begin() -> None:
    """Set up a worker: it ends with its parent, however that ends, and shows warnings as commands do."""
    warnings.showwarning = show_warning
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
