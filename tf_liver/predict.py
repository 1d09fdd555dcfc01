"""Segment scans: NIfTI files or DICOM series in, label maps on the scans' own grids and statistics out."""

import os
import sys
import time
import warnings
from collections import Counter
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
from tf_liver.data import GridWarning
from tf_liver.data.scans import find_scans, name_of_scan
from tf_liver.ensemble import RUNS_MEANT, check_mirrored, load_together, open_runs
from tf_liver.files import require_writable
from tf_liver.runs import RUNS, Run


@dataclass
class PredictOptions:
    """Which scans, and with what."""

    scans: List[Path] = option(  # noqa: UP006
        None, "NIfTI files, or folders: the NIfTI files and DICOM series in them", args=["scans"], nargs="+", type=Path
    )
    output: Path = option(Path("predictions"), "folder of the results", args=["-o", "--output"])
    run: Optional[List[Path]] = option(  # noqa: UP006
        None, RUNS_MEANT, nargs="+", type=Path
    )
    checkpoint: str = option("best", "best by the Dice of the held-out slices, or last", choices=["best", "last"])
    tta: bool = option(False, "average over mirror images of each slice too: four times the work")
    probabilities: bool = option(
        False, "write the probabilities too, <case>-probability.nii.gz and <case>-tumour-probability.nii.gz"
    )
    hu_offset: int = option(0, "added to every voxel, for scans that are stored shifted: -1024 for HU + 1024")
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
    runs = open_runs(paths, options.checkpoint)
    if options.tta:
        check_mirrored(runs)
    scans = find_scans(options.scans, options.output)
    outputs = label_map_paths(scans, options.output, options.probabilities)
    require_writable(options.output)
    list_scans(options.scans, scans)

    warnings.simplefilter("ignore", GridWarning)  # said with what was found in each scan
    quiet_tensorflow()
    from tf_liver.volume.inference import segment_files

    remote = server_model(options) if options.server else None
    first = remote.experiment() if remote else runs[0].experiment
    start, done, doubted, slices = time.perf_counter(), 0, 0, 0

    def loaded() -> Any:
        nonlocal start
        predictor = remote or load(runs, options)
        start = time.perf_counter()
        return predictor

    for one in segment_files(
        loaded,
        scans,
        outputs,
        first.postprocessing,
        tumours=first.task == "tumour",
        probabilities=options.probabilities,
        hu_offset=options.hu_offset,
    ):
        if one.statistics is None:
            assert one.error is not None
            if len(scans) == 1:
                raise one.error
            print(f"error: {one_line(one.error)}", file=sys.stderr)
            continue
        done, slices = done + 1, slices + one.slices
        doubted += bool(one.statistics["warnings"])
        print(f"{one.output}: {in_words(one.statistics)}", flush=True)
        for warning in one.statistics["warnings"]:
            print(f"warning: {one.scan}: {warning}", file=sys.stderr)
    seconds = time.perf_counter() - start
    speed = f"{done / seconds:.2f} scans/s, {slices / seconds:.0f} slices/s"
    warned = f"; {doubted} with warnings" if doubted else ""
    print(f"{done} of {len(scans)} scans done in {seconds:.1f} s: {speed}{warned}")
    return DONE if done == len(scans) else FAILED if done else REFUSED


def server_model(options: PredictOptions) -> Any:
    """Return the model behind --server, and say on the screen where it is."""
    from tf_liver.serving.client import Address, RemoteModel

    assert options.server is not None
    print(f"predicting with {options.server}", flush=True)
    return RemoteModel(Address(options.server, options.model, options.version, options.ca_file))


def load(runs: Sequence[Run], options: PredictOptions) -> Any:
    """Return the runs as one predictor, and say on the screen what it is."""
    predictor, kinds = load_together(runs, options.checkpoint, options.tta)
    names = ", ".join(str(run.path) for run in runs)
    last = ", last checkpoint" * (options.checkpoint == "last")
    print(f"predicting with {names}{last}; {kinds}{', mirror images too' * options.tta}", flush=True)
    return predictor


def in_words(statistics: dict[str, Any]) -> str:
    """Return what the screen says of one scan."""
    text = f"liver {statistics['liver_ml']:.1f} ml"
    if statistics["tumour_count"] is not None:
        text += f", {statistics['tumour_count']} tumours of {statistics['tumour_ml']:.1f} ml"
    return text


def list_scans(given: Sequence[Path], scans: Sequence[Path]) -> None:
    """Say on the screen what was found below the folders that were given, unless it is what they hold themselves."""
    if all(scan in given or scan.parent in given for scan in scans):
        return
    print(f"{len(scans)} scans found:")
    for scan in scans:
        print(f"  {scan}{' (DICOM series)' * scan.is_dir()}", flush=True)


def label_map_paths(scans: Sequence[Path], folder: Path, probabilities: bool = False) -> list[Path]:
    """Return where the label map of each scan goes: named after it, or where names repeat, after its relative path.

    Raises:
        ValueError: a label map would replace one of the scans, or a result of another one; probabilities are results.
    """
    from tf_liver.volume.inference import probability_paths

    inputs, taken, outputs = {scan.resolve() for scan in scans}, dict[Path, Path](), list[Path]()
    times = Counter(map(name_of_scan, scans))
    repeated = [scan.absolute().parent for scan in scans if times[name_of_scan(scan)] > 1]
    top = os.path.commonpath(repeated) if repeated else ""
    for scan in scans:
        name = name_of_scan(scan)
        where = folder / os.path.relpath(scan.absolute().parent, top) if times[name] > 1 else folder
        out = where / f"{name}.nii.gz"
        for path in (out, *probability_paths(out)) if probabilities else (out,):
            if path.resolve() in inputs:
                raise ValueError(f"{scan}: its result would replace the scan {path}; choose another --output")
            if path in taken:
                raise ValueError(f"{scan}: its {path} would replace that of {taken[path]}; predict one at a time")
            taken[path] = scan
        outputs.append(out)
    return outputs


if __name__ == "__main__":
    sys.exit(main())
