"""report.html: an evaluation folder as one page for people, with nothing to fetch."""

import os
import shlex
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tf_liver import __version__, files
from tf_liver.data.cases import Case
from tf_liver.processes import in_processes
from tf_liver.progress import track
from tf_liver.volume import sections
from tf_liver.volume.charts import charts
from tf_liver.volume.evaluation import read_evaluation
from tf_liver.volume.overlay import DISPLAY_WINDOW_HU
from tf_liver.volume.planes import view_or_say_why
from tf_liver.volume.sections import Region, ShownCase

PAGE = Path(__file__).parent / "page"
WORKERS = 8  # the largest cases take 1 GB each


def write_report(folder: Path, cases: Sequence[Case], run: Path | None) -> Path:
    """Write report.html into an evaluation folder and return its path.

    cases: where the scans and references of metrics.csv are; one that cannot be shown keeps its scores and says why.
    run: the run folder, for its learning curves.

    Raises:
        DataError: the folder is not what evaluate writes.
    """
    evaluation = read_evaluation(folder)
    by_id = {case.case_id: case for case in cases}
    case_ids = list(dict.fromkeys(row["case_id"] for row in evaluation.rows))
    jobs = [(c, by_id.get(c), evaluation.prediction(c), evaluation.labels) for c in case_ids]
    views = in_processes(view_or_say_why, jobs, min(WORKERS, os.cpu_count() or 1))
    shown = [ShownCase.of(evaluation, i, v) for i, v in enumerate(track(views, "drawing cases", len(jobs)))]
    shown.sort(key=lambda case: case.place)
    page = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html")
    anchors = {case.case_id: case.anchor for case in shown}
    html = page.render(
        title=sections.title(evaluation.summary),
        facts=sections.facts(evaluation.summary),
        failed=evaluation.summary.get("failed") or {},
        placeholders=evaluation.summary.get("placeholder_spacing") or {},
        regions=[Region.of(evaluation, region, anchors) for region in evaluation.regions],
        interval=evaluation.summary.get("interval", ""),
        by_id={case.case_id: case for case in shown},
        charts=charts(evaluation, run),
        summary=sections.all_figures(evaluation.summary),
        cases=shown,
        window="{:g} to {:g} HU".format(*DISPLAY_WINDOW_HU).replace("-", "−"),
        viewer=f"python -m tf_liver.report --serve {shlex.quote(str(folder))}",
        version=__version__,
        date=date.today().isoformat(),
    )
    files.write_atomic(folder / "report.html", html)
    return folder / "report.html"
