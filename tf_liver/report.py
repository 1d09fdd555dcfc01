"""Write report.html of an evaluation again, or serve a viewer of its scans and masks on this machine."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tf_liver.command import DONE, check_option, command, debug_option, option, parse
from tf_liver.runs import RUNS, Run


@dataclass
class ReportOptions:
    """Which evaluation, and what to do with it."""

    folder: Optional[Path] = option(
        None,
        "run or evaluation folder; without it the latest run; of a run, its folder evaluation",
        args=["folder"],
        nargs="?",
        type=Path,
    )
    serve: bool = option(False, "write nothing, but serve a viewer of the scans with both masks until Ctrl-C")
    port: int = option(0, "port of the viewer on 127.0.0.1; 0 is any free one")
    runs: Path = option(RUNS, "where to look for the latest run")
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from an evaluation folder to its page."""
    options = parse(ReportOptions, argv, "report", __doc__)
    check_option("port", options.port, 0, 65535)
    folder, run = evaluation_of(options.folder or Run.latest(options.runs).path)

    from tf_liver.data.cases import find_cases
    from tf_liver.volume.evaluation import read_evaluation
    from tf_liver.volume.report import write_report
    from tf_liver.volume.viewer import Viewer, viewer_files

    evaluation = read_evaluation(folder)
    cases = find_cases(Path(str(evaluation.summary.get("data"))))
    if not options.serve:
        print(f"written: {write_report(folder, cases, run or evaluation.run)}")
        return DONE
    try:
        viewer = Viewer(viewer_files(evaluation, cases), options.port)
    except OSError as error:
        raise ValueError(f"--port: {error.strerror}. Received: {options.port}") from error
    with viewer:
        print(f"viewer of {folder}: {viewer.url} (Ctrl-C ends it)", flush=True)
        viewer.serve_forever()
    return DONE


def evaluation_of(path: Path) -> tuple[Path, Path | None]:
    """Return the evaluation folder that a path means, and its run where the path is one."""
    if (path / "experiment.json").is_file():
        return path / "evaluation", path
    return path, None


if __name__ == "__main__":
    sys.exit(main())
