"""Fetch the Task03_Liver archive (28.9 GB), check it and unpack it; broken off, the next call goes on from there."""

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from tqdm import tqdm

from tf_liver.command import DONE, command, debug_option, option, parse
from tf_liver.data import DataError
from tf_liver.data.cases import DEFAULT_DATA, find_cases
from tf_liver.data.download import alone, check_md5, check_space, human, unpack
from tf_liver.data.fetch import MD5, URL, Remote, fetch, part_of


@dataclass
class DownloadOptions:
    """Where from and where to."""

    output: Path = option(DEFAULT_DATA, "folder to make", args=["-o", "--output"])
    archive: Optional[Path] = option(None, "a Task03_Liver.tar that is already here: checked, unpacked, left alone")
    url: str = option(URL, "a mirror")
    md5: str = option(MD5, "checksum of the archive")
    keep: bool = option(False, "keep the downloaded archive after unpacking")
    timeout: float = option(60.0, "seconds without a byte after which a connection counts as lost")
    retries: int = option(8, "lost connections in a row, without headway, before giving up")
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from the server, or an archive at hand, to a data folder."""
    options = parse(DownloadOptions, argv, "download", __doc__)
    remote = Remote(options.url, options.md5.lower(), options.timeout, options.retries)
    target = options.output.resolve()
    if cases := cases_in(target):
        print(f"{options.output}: already there, {cases} cases")
        return DONE
    fetched = target.with_name(f"{target.name}.tar")
    archive = options.archive or fetched
    if options.archive and not archive.is_file():
        raise DataError(f"{archive}: there is no such archive")
    with closing(Screen()) as screen, alone(target):
        try:
            if archive.exists():
                screen.say(check_space(target.parent, 0, archive.stat().st_size))
            else:
                fetch(remote, archive, screen)
            check_md5(archive, remote.md5, screen, set_aside=options.archive is None)
            cases = unpack(archive, target, screen)
        except KeyboardInterrupt:
            for kept in filter(Path.exists, (part_of(fetched), fetched)):
                print(f"{kept} is kept, the next call goes on from there", file=sys.stderr)
            raise
        if not (options.archive or options.keep):
            archive.unlink()
    print(f"{options.output}: {cases} cases")
    return DONE


def cases_in(target: Path) -> int:
    """Return how many cases a folder holds; 0 when there is no such folder, or an empty one.

    Raises:
        DataError: something else lies there.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return 0
    try:
        return len(find_cases(target))
    except DataError as error:
        raise DataError(f"{error}; move it away, or choose another --output") from error


class Screen:
    """What the user sees: a bar where somebody looks, a line every tenth of the way where nobody does."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what, self._tenth = "", -1

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        tqdm.write(text) if self._bar else print(text, flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how many bytes of what is done."""
        new, self._what = what != self._what, what
        tenth = 10 * done // max(total, 1)
        if sys.stderr.isatty():
            if new:
                self.close()
                self._bar = tqdm(desc=what, total=total, initial=done, unit="B", unit_scale=True, leave=False)
            self._bar.update(done - self._bar.n)
        elif new or tenth != self._tenth:
            print(f"{what}: {human(done)} of {human(total)} ({100 * done // max(total, 1)}%)", flush=True)
        self._tenth = tenth

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


if __name__ == "__main__":
    sys.exit(main())
