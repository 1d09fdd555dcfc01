"""Work over many files in several processes, and commands that other commands run."""

import ctypes
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TypeVar

from tf_liver.progress import show_warning, write_anything

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
    write_anything()
    warnings.showwarning = show_warning
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def run_command(argv: Sequence[str], held: int | None = None) -> int:
    """Run a command to its end in our place on the terminal, and return its exit code; −9 if signal 9 ended it.

    held: a handle, such as that of a lock, that the command keeps open too.

    Ctrl-C and SIGTERM are handed on as a SIGTERM, and its end is waited for: a training saves its state. A second
    signal is handed on as Ctrl-C. If this process is killed the command gets a SIGTERM (on Linux).

    Raises:
        KeyboardInterrupt: after it has ended, if there was a signal.
    """
    parent = os.getpid()
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def follow() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:
                os._exit(1)

    def hand_on(number: int, _: object) -> None:
        received.append(number)
        if child:
            child.send_signal(signal.SIGTERM if len(received) == 1 else signal.SIGINT)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # A group of its own: Ctrl-C on a terminal would reach it twice, which breaks a training off.
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=follow,
            pass_fds=() if held is None else (held,),
        )
        if received:
            child.send_signal(signal.SIGTERM)
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
    return code
