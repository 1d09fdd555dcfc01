"""Read every scan of a Task03_Liver folder and say what is wrong (error) and what is odd (warning).

Exit code 0: no errors; 1: warnings, with --strict; 2: errors.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_liver import __version__, files
from tf_liver.command import DONE, FAILED, REFUSED, command, debug_option, option, parse
from tf_liver.data.cases import DEFAULT_DATA
from tf_liver.data.fingerprint import fingerprint
from tf_liver.data.verification import CaseFacts, Verification, verify_folder


@dataclass
class VerifyOptions:
    """What to read, how, and where the JSON goes."""

    data: Path = option(
        DEFAULT_DATA,
        "Task03_Liver folder: imagesTr/, labelsTr/, dataset.json; it may be read-only",
        args=["data"],
        nargs="?",
        type=Path,
    )
    output: Path = option(
        Path("data/verification"), "folder of verification.json and fingerprint.json", args=["-o", "--output"]
    )
    quick: bool = option(False, "headers only: no HU, no label values, no fingerprint")
    strict: bool = option(False, "exit with 1 on warnings too")
    workers: int = option(min(8, os.cpu_count() or 1), "files read at once; the largest scans take 1 GB each")
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from a data folder to what is wrong with it."""
    options = parse(VerifyOptions, argv, "verify", __doc__)
    if options.workers < 1:
        raise ValueError(f"workers must be at least 1. Received: {options.workers}")
    found = verify_folder(options.data, options.workers, options.quick)
    print(table(found.cases))
    for severity in ("error", "warning"):
        for finding in found.of(severity):
            print(f"{severity}: {finding.message.removeprefix(f'{options.data}{os.sep}')}")
    files.write_atomic(options.output / "verification.json", _json(_record(found, options)))
    if not options.quick:
        prints = fingerprint(found.cases)
        files.write_atomic(options.output / "fingerprint.json", _json(prints))
        if window := prints["suggested_window_hu"]:
            print(f"suggested window: --window-hu {window[0]:g} {window[1]:g} ({prints['window_rule']})")
    errors, warned = len(found.of("error")), len(found.of("warning"))
    print(f"{options.data}: {len(found.cases)} cases, {errors} errors, {warned} warnings; details in {options.output}")
    return REFUSED if errors else FAILED if warned and options.strict else DONE


def table(cases: Sequence[CaseFacts]) -> str:
    """Return one line a case, as text for a terminal; what was not read is a dash."""
    head = ("case", "shape", "spacing mm", "axes", "HU", "liver ml", "tumour ml", "liver slices")
    rows = [head, *(_row(case) for case in cases)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(case: CaseFacts) -> tuple[str, ...]:
    def cell(value: Any, text: str) -> str:
        return "–" if value is None else text

    return (
        case.case_id,
        cell(case.shape, " × ".join(map(str, case.shape or ()))),
        cell(case.spacing_mm, " × ".join(f"{mm:.3g}" for mm in case.spacing_mm or ())),
        cell(case.orientation, case.orientation or ""),
        cell(case.hu_range, " to ".join(f"{hu:g}" for hu in case.hu_range or ())),
        cell(case.liver_ml, f"{case.liver_ml or 0:.1f}"),
        cell(case.tumour_ml, f"{case.tumour_ml or 0:.1f}"),
        cell(case.positive_slices, f"{case.positive_slices} of {case.shape[2]}" if case.shape else ""),
    )


def _record(found: Verification, options: VerifyOptions) -> dict[str, Any]:
    """Return everything found, ready for JSON; the histograms are in the fingerprint."""
    cases = [{k: v for k, v in dataclasses.asdict(case).items() if k != "liver_hu"} for case in found.cases]
    record: dict[str, Any] = {"tf_liver": __version__, "data": str(options.data.resolve()), "quick": options.quick}
    record["cases"] = cases
    for severity in ("error", "warning"):
        chosen = found.of(severity)
        record[f"{severity}s"] = [{"case_id": f.case_id, "message": f.message} for f in chosen]
    return record


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
