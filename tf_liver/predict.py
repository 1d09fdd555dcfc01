"""Segment scans: NIfTI files or DICOM series in, label maps on the scans' own grids and statistics out."""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional  # noqa: UP035  argparse-dataclass 2.0.0 reads List

from tf_liver.command import (
    DONE,
    FAILED,
    REFUSED,
    command,
    debug_option,
    one_line,
    option,
    parse,
    quiet_tensorflow,
)
from tf_liver.data.scans import find_scans, name_of_scan
from tf_liver.experiment import Experiment
from tf_liver.runs import RUNS, Run


@dataclass
class PredictOptions:
    """Which scans, and with what."""

    scans: List[Path] = option(  # noqa: UP006
        None, "NIfTI files, folders of them, or folders of one DICOM series each", args=["scans"], nargs="+", type=Path
    )
    output: Path = option(Path("predictions"), "folder of the results", args=["-o", "--output"])
    run: Optional[List[Path]] = option(  # noqa: UP006
        None, "run folder, or several whose probabilities are averaged; without it the latest one", nargs="+", type=Path
    )
    tta: bool = option(False, "average over mirror images of each slice too: four times the work")
    probabilities: bool = option(
        False, "write the probabilities too, <case>-probability.nii.gz and <case>-tumour-probability.nii.gz"
    )
    runs: Path = option(RUNS, "where to look for the latest run")
    server: Optional[str] = option(None, "ask TF Serving: http://host:8501 or grpc://host:8500; https, grpcs for TLS")
    model: str = option("tf_liver", "name of the model on the server")
    version: Optional[int] = option(None, "its version on the server; without it the newest")
    ca_file: Optional[Path] = option(None, "PEM file of who signed the server's certificate; $TF_LIVER_TOKEN is sent")
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from scans to label maps."""
    options = parse(PredictOptions, argv, "predict", __doc__)
    if options.server and (options.run or options.tta or options.probabilities):
        raise ValueError("--server: it answers with label maps of its own model, so no --run, --tta, --probabilities")
    paths = options.run or ([] if options.server else [Run.latest(options.runs).path])
    runs = [Run.open(path) for path in paths]
    for run in runs:
        run.require_checkpoint("best")
    experiments = [run.experiment for run in runs]
    check_agreement(runs, experiments, options.tta)
    scans = find_scans(options.scans)
    outputs = label_map_paths(scans, options.output)
    require_writable(options.output)

    quiet_tensorflow()
    from tf_liver.volume.inference import segment_files

    remote = server_model(options) if options.server else None
    first = remote.experiment() if remote else experiments[0]
    start, done, slices = time.perf_counter(), 0, 0

    def load() -> Any:
        nonlocal start
        predictor = remote or load_together(runs, experiments, options.tta)
        start = time.perf_counter()
        return predictor

    for one in segment_files(
        load, scans, outputs, first.postprocessing, tumours=first.task == "tumour", probabilities=options.probabilities
    ):
        if one.statistics is None:
            assert one.error is not None
            if len(scans) == 1:
                raise one.error
            print(f"error: {one_line(one.error)}", file=sys.stderr)
            continue
        done, slices = done + 1, slices + one.slices
        print(f"{one.output}: {in_words(one.statistics)}", flush=True)
        for warning in one.statistics["warnings"]:
            print(f"warning: {one.scan}: {warning}", file=sys.stderr)
    seconds = time.perf_counter() - start
    speed = f"{done / seconds:.2f} scans/s, {slices / seconds:.0f} slices/s"
    print(f"{done} of {len(scans)} scans done in {seconds:.1f} s: {speed}")
    return DONE if done == len(scans) else FAILED if done else REFUSED


def server_model(options: PredictOptions) -> Any:
    """Return the model behind --server, and say on the screen where it is."""
    from tf_liver.serving.client import Address, RemoteModel

    assert options.server is not None
    print(f"predicting with {options.server}", flush=True)
    return RemoteModel(Address(options.server, options.model, options.version, options.ca_file))


def load_together(runs: Sequence[Run], experiments: Sequence[Experiment], mirrored: bool) -> Any:
    """Return the runs as one predictor, and say on the screen what it is."""
    from tf_liver.model.predictor import Averaged, Mirrored, load_predictor

    weights = [run.require_checkpoint("best") for run in runs]
    loaded = [load_predictor(e, str(w)) for e, w in zip(experiments, weights, strict=True)]
    predictors = [Mirrored(predictor) if mirrored else predictor for predictor, _ in loaded]
    names, kinds = ", ".join(str(run.path) for run in runs), "/".join(sorted({kind for _, kind in loaded}))
    print(f"predicting with {names}; {kinds}{', mirror images too' * mirrored}", flush=True)
    return Averaged(predictors) if len(predictors) > 1 else predictors[0]


def check_agreement(runs: Sequence[Run], experiments: Sequence[Experiment], mirrored: bool) -> None:
    """Refuse runs that cannot be averaged, or mirror images for a network that never saw any, with a ValueError."""
    for run, experiment in zip(runs, experiments, strict=True):
        for field in ("task", "postprocessing"):
            mine, first = getattr(experiment, field), getattr(experiments[0], field)
            if mine != first:
                raise ValueError(f"{run.path}: {field} must be that of {runs[0].path}, {first}. Received: {mine}")
        if mirrored and experiment.augmentation != "flip_rotate":
            raise ValueError(
                f"{run.path}: --tta averages over mirror images, on which the run must have been trained "
                f"(augmentation flip_rotate). Received: {experiment.augmentation}"
            )


def in_words(statistics: dict[str, Any]) -> str:
    """Return what the screen says of one scan."""
    text = f"liver {statistics['liver_ml']:.1f} ml"
    if statistics["tumour_count"] is not None:
        text += f", {statistics['tumour_count']} tumours of {statistics['tumour_ml']:.1f} ml"
    return text


def require_writable(folder: Path) -> None:
    """Raise the OSError of a new file in the folder, or where it will be made, before any work is done."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass


def label_map_paths(scans: Sequence[Path], folder: Path) -> list[Path]:
    """Return where the label map of each scan goes.

    Raises:
        ValueError: a label map would replace one of the scans, or the label map of another one.
    """
    inputs, taken = {scan.resolve() for scan in scans}, dict[Path, Path]()
    for scan in scans:
        out = folder / f"{name_of_scan(scan)}.nii.gz"
        if out.resolve() in inputs:
            raise ValueError(f"{scan}: its label map would replace the scan {out}; choose another --output")
        if out in taken:
            raise ValueError(f"{scan}: its label map {out} would replace that of {taken[out]}; predict one at a time")
        taken[out] = scan
    return list(taken)


if __name__ == "__main__":
    sys.exit(main())
