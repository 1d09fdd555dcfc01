"""What all commands share: options from a dataclass, one-line errors, exit codes, a quiet TensorFlow."""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import os
import shlex
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from argparse_dataclass import ArgumentParser

from tf_liver.experiment import Experiment
from tf_liver.progress import show_warning, write_anything

Options = TypeVar("Options")


class Main(Protocol):
    """A command's `main`: returns its exit code; without arguments it reads the command line."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


DONE, FAILED, REFUSED, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141
_NVIDIA = Path("/dev/nvidia0")


class WorkerGoneError(RuntimeError):
    """Another worker of the same training is gone: TensorFlow's own way out may then wait for it for ever."""


def option(default: Any, help: str, **metadata: Any) -> Any:
    """Return a dataclass field for argparse-dataclass, which shows no defaults in its help by itself."""
    # A switch is off by default; that of a True field is --no-…, beside which "True" would read wrong.
    shown = "" if default is None or isinstance(default, bool) else f" (default: {default})"
    return dataclasses.field(default=default, metadata={"help": help + shown, **metadata})


def debug_option() -> Any:
    """Return the field `debug` that every command has."""
    return option(False, "show the traceback of an error")


def command_line(prog: str, argv: Sequence[str] | None) -> str:
    """Return what to type into a shell to call a command again."""
    return shlex.join(["python", "-m", f"tf_liver.{prog}", *map(str, sys.argv[1:] if argv is None else argv)])


def check_option(name: str, value: int, low: int, high: int | None = None) -> None:
    """Refuse an option outside its range with a ValueError that names it."""
    if value < low or (high is not None and value > high):
        rule = f"be at least {low}" if high is None else f"lie in [{low}, {high}]"
        raise ValueError(f"--{name}: must {rule}. Received: {value}")


class _Parser(ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(REFUSED)


def parse(kind: type[Options], argv: Sequence[str] | None, prog: str, about: str | None) -> Options:
    """Return the options of a command."""
    options, _ = _parse(kind, argv, prog, about, with_experiment=False)
    return options


def parse_with_experiment(
    kind: type[Options], argv: Sequence[str] | None, prog: str, about: str | None
) -> tuple[Options, dict[str, Any]]:
    """Return the options of a command, and the experiment's fields that were overridden."""
    return _parse(kind, argv, prog, about, with_experiment=True)


def _parse(
    kind: type[Options], argv: Sequence[str] | None, prog: str, about: str | None, with_experiment: bool
) -> tuple[Options, dict[str, Any]]:
    parser = _Parser(kind, prog=f"python -m tf_liver.{prog}", description=about, allow_abbrev=False)
    fields = dataclasses.fields(Experiment) if with_experiment else ()
    group = parser.add_argument_group("fields of the experiment, to override") if fields else parser
    for spec in fields:
        shape: dict[str, Any] = {"type": spec.type}
        if spec.type == tuple[float, float]:
            shape = {"type": float, "nargs": 2, "metavar": ("LOW", "HIGH")}
        elif spec.metadata["choices"]:
            shape["metavar"] = f"{{{','.join(spec.metadata['choices'])}}}"
        group.add_argument(
            f"--{spec.name.replace('_', '-')}", default=argparse.SUPPRESS, help=spec.metadata["help"], **shape
        )
    # The dataclass parser would pass the experiment's fields on to the options: ask argparse itself.
    namespace, unknown = argparse.ArgumentParser.parse_known_args(parser, argv)
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        close = difflib.get_close_matches(unknown[0].split("=")[0], known, 1)
        parser.error(f"{unknown[0]}: no such option" + (f"; did you mean {close[0]}?" if close else "; see --help"))
    given = {k: v for k, v in vars(namespace).items() if v is not dataclasses.MISSING}
    changes = {spec.name: given.pop(spec.name) for spec in fields if spec.name in given}
    return kind(**given), changes


def command(main: Main) -> Main:
    """Wrap a `main(argv=None)`: errors become one line and an exit code; `--debug` lets them through.

    0 done, 1 done with failures named or an error of ours, 2 refused (bad input), 130 interrupted, 141 when the
    reader of the output has gone (`… | head`), as a shell reports other programs.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        arguments = sys.argv[1:] if argv is None else argv
        write_anything()
        if argv is None:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # until now, the package's own
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            try:
                code = main(argv)
                sys.stdout.flush()  # a reader that has gone is met here, not at the interpreter's end
                return code
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
                return UNREAD
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                return INTERRUPTED
            except Exception as error:
                if "--debug" in arguments:
                    traceback.print_exc()
                refused = isinstance(error, ValueError | OSError)
                says_all = refused or isinstance(error, ArithmeticError | WorkerGoneError)
                what = "" if says_all else f"{type(error).__name__}: "
                hint = "" if refused else " (--debug shows where)"
                print(f"error: {what}{one_line(error)}{hint}", file=sys.stderr)
                if isinstance(error, WorkerGoneError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(FAILED)  # files, lock and processes of ours are closed by now
                return REFUSED if refused else FAILED

    return wrapped


def one_line(error: Exception) -> str:
    """Return an error's message in one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def quiet_tensorflow(devices: bool = True) -> Any:
    """Import and return TensorFlow without the log lines of its start; they are shown if it fails or misses a GPU.

    devices: False leaves them to be made by a strategy of several workers, which must come first.

    TensorFlow 2.21 writes some before TF_CPP_MIN_LOG_LEVEL is looked at, straight to file descriptor 2.
    """
    with _held_back_stderr() as held:
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if devices:
            tf.constant(0.0) + 1.0  # makes the devices, which is when CUDA speaks
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not gpus and not hidden and _NVIDIA.exists():
        print(
            f"{''.join(held)}warning: {_NVIDIA} is there, but TensorFlow sees no GPU; TF_CPP_MIN_LOG_LEVEL=0 says more",
            file=sys.stderr,
        )
    tf.get_logger().setLevel("ERROR")
    return tf


def _read_back(held: Any) -> bytes:
    held.seek(0)
    return held.read()


@contextlib.contextmanager
def _held_back_stderr() -> Iterator[list[str]]:
    """Hold back what is written to file descriptor 2, and let it out on an error; afterwards the list holds it."""
    sys.stderr.flush()
    saved = os.dup(2)
    text: list[str] = []
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield text
            text.append(_read_back(held).decode(errors="replace"))
        except BaseException:
            os.write(saved, _read_back(held))
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
