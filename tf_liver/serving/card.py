"""What a model is, where it comes from, what it is good for: metadata.json for programs, model_card.md for people."""

import dataclasses
import hashlib
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

from tf_liver.data import LABELS
from tf_liver.experiment import Experiment, replace
from tf_liver.files import read_json, sha256
from tf_liver.records import RunSplit, Summary
from tf_liver.runs import PACKAGES, Run
from tf_liver.serving.wire import signatures_of

INPUT = {
    "values": "HU: air −1000, water 0; no rescaling before, normalisation is inside",
    "orientation": "NIfTI RAS, transposed: slices from feet to head, rows from posterior to anterior, "
    "columns from the patient's left to the right",
    "slice_axis": 0,
    "sizes": "any from 1 × 1 to 2,048 × 2,048; slices of one request have one size (serve_encoded may mix them)",
}
INTENDED_USE = (
    "Research on contrast-enhanced abdominal CT of adults: outlines of the liver for measurement and for further work, "
    "looked at by somebody who can read them."
)
LIMITS = (
    "Not a medical device; nothing here has been validated for clinical use.",
    "Not shown to work on other modalities, children, livers after surgery, or scans without contrast.",
    "On scanners that it never saw its scores are lower than on the held-out cases of its own data.",
    "It always answers: a scan that is no abdominal CT gets a label map too.",
)
NO_LICENCE = "not recorded with the data; find out before you pass the model on"


def facts_of(run: Run, checkpoint: str, precision: str, xla: bool) -> dict[str, Any]:
    """Return what metadata.json says about a run, without paths of the machine that trained it.

    precision: the type that the exported network computes in.
    """
    experiment = run.experiment
    table = run.facts
    split = run.split
    data = run.data
    return {
        "model": run.path.resolve().name,
        "task": experiment.task,
        "labels": {str(value): name for value, name in labels_of(experiment).items()},
        "input": INPUT,
        "signatures": signatures_of(experiment.task),
        "precision": precision,
        "xla": xla,
        "experiment": dataclasses.asdict(_without_path(experiment)),
        "checkpoint": checkpoint,
        "weights_sha256": sha256(run.require_checkpoint(checkpoint)),
        "data": {
            "name": data.name,
            "sha256_of_names_and_sizes": data_hash(data, split),
            "training_cases": len(split["train"]),
            "held_out_cases": len(split["held_out"]),
            "split_sha256": sha256(run.path / "split.json"),
            "licence": licence_of(data),
        },
        "scores": scores_of(run, checkpoint),
        "trained": {name: table[name] for name in ("started", "device", "python", "versions", "seed") if name in table},
        "exported_with": {name: metadata.version(name) for name in ("tf_liver", *PACKAGES)}
        | {"python": platform.python_version()},
        "intended_use": INTENDED_USE,
        "limits": LIMITS,
    }


def _without_path(experiment: Experiment) -> Experiment:
    """Return the experiment with the mere name of a file of encoder weights."""
    return replace(experiment, encoder_weights=Path(experiment.encoder_weights).name)


# What differs from run to run where several answer together.
OF_EACH = ("model", "experiment", "weights_sha256", "data", "scores", "trained")


def facts_of_several(
    folders: Sequence[Path], runs: Sequence[Run], checkpoint: str, precision: str, xla: bool
) -> dict[str, Any]:
    """Return what metadata.json says about runs that answer together: `members` holds what differs between them.

    folders: the runs' own, or that of their cross-validation, whose scores are told.
    """
    name = " + ".join(folder.resolve().name for folder in folders)
    each = [facts_of(run, checkpoint, precision, xla) for run in runs]
    common = {key: value for key, value in each[0].items() if key not in OF_EACH or key == "experiment"}
    scores = scores_of(Run(folders[0]), checkpoint) if len(folders) == 1 else {}
    members = [{key: facts[key] for key in OF_EACH} for facts in each]
    return {"model": name, **common, "scores": scores, "members": members}


def labels_of(experiment: Experiment) -> dict[int, str]:
    """Return what the values of a label map mean."""
    return {0: "background", 1: "liver"} if experiment.task == "liver" else dict(LABELS)


def data_hash(data: Path, split: RunSplit) -> str | None:
    """Return a hash over names and sizes of the run's scans and labels; None where they lie here no more."""
    lines = []
    for case_id in sorted(split["train"] + split["held_out"]):
        for folder in ("imagesTr", "labelsTr"):
            found = [p for p in (data / folder / f"{case_id}{end}" for end in (".nii.gz", ".nii")) if p.is_file()]
            if not found:
                return None
            lines.append(f"{folder}/{found[0].name} {found[0].stat().st_size}\n")
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


class Licence(TypedDict):
    """What is read here of a dataset.json."""

    licence: str


def licence_of(data: Path) -> str:
    """Return the licence that the data's dataset.json states."""
    try:
        return read_json(data / "dataset.json", Licence)["licence"]
    except (OSError, ValueError):
        return NO_LICENCE


# What an evaluation tells beside the scores of its regions.
BESIDE_SCORES = ("cases", "cases_with_region", "false_positives")


def scores_of(run: Run, checkpoint: str) -> dict[str, dict[str, Any]]:
    """Return each score's mean, SD and interval by evaluation folder and region, and over how many cases.

    Of every evaluation of this checkpoint; see `summary.figures_of_regions`.
    """
    found = {}
    for path in sorted(run.path.glob("evaluation*/summary.json")):
        summary = run.read_json(str(path.relative_to(run.path)), Summary, ("cases",))
        if summary.get("checkpoint") == checkpoint:
            regions: dict[str, Any] = {**summary.get("regions", {})} or {"liver": summary}  # of before there were any
            beside = {name: value for name, value in summary.items() if name in BESIDE_SCORES}
            found[path.parent.name] = beside | {
                region: {score: v for score, v in scores.items() if isinstance(v, dict) and "mean" in v}
                for region, scores in regions.items()
            }
    return found


def model_card(facts: dict[str, Any], experiment: Experiment) -> str:
    """Return the model card in Markdown, from what metadata.json holds."""
    check = facts["check"]
    lines = [
        f"# {facts.get('model', experiment.name)}",
        "",
        f"Segmentation of {' and '.join(list(facts.get('labels', {}).values())[1:])} in CT by `{experiment.name}`: "
        f"{origin(facts, experiment)}",
        "",
        *("## Intended use", "", INTENDED_USE, "", *(f"- {limit}" for limit in LIMITS), ""),
        *("## Input", "", *(f"- {name.replace('_', ' ')}: {text}" for name, text in INPUT.items()), ""),
        *("## Signatures", "", *(f"- `{name}`: {text}" for name, text in signatures_of(experiment.task).items()), ""),
        "Label values: " + ", ".join(f"{value} {name}" for value, name in facts.get("labels", {}).items()) + ".",
        "",
        *("## Scores of its own evaluations", "", *score_lines(facts.get("scores", {})), ""),
        *("## Speed and precision", "", *speed_lines(facts), ""),
        *(
            f"## Training{' of the first run' * ('members' in facts)}",
            "",
            *(f"- {name}: {value}" for name, value in dataclasses.asdict(_without_path(experiment)).items()),
            "",
        ),
        *(training_line(member) for member in facts.get("members", [facts])),
        "",
        f"Checked through TensorFlow's C++ loader on {facts.get('checked_on', 'a phantom')}: probabilities at most "
        f"{check['max_probability_difference']:.2g} from the project's own inference, Dice {check['least_dice']:.5f}.",
        "",
    ]
    return "\n".join(lines)


def origin(facts: dict[str, Any], experiment: Experiment) -> str:
    """Return what the model is and what it was trained on, in a sentence."""
    members = facts.get("members", [])
    if members:
        names = ", ".join(member["model"] for member in members)
        return f"the mean probability of {len(members)} Unets, trained with tf_liver: {names}."
    data = facts.get("data", {})
    return (
        f"Unet, {experiment.backbone}, trained with tf_liver on {data.get('training_cases', '?')} cases of "
        f"{data.get('name', '?')}, {data.get('held_out_cases', '?')} held out."
    )


def training_line(facts: dict[str, Any]) -> str:
    """Return a line of Markdown on what one run was trained on, and its hashes."""
    data = facts.get("data", {})
    return (
        f"- {facts.get('model', 'model')}: {data.get('training_cases', '?')} cases of {data.get('name', '?')}, "
        f"{data.get('held_out_cases', '?')} held out; licence: {data.get('licence', NO_LICENCE)}; "
        f"SHA-256 of the split: {data.get('split_sha256', '?')}; of the weights: {facts.get('weights_sha256', '?')}."
    )


def score_lines(scores: dict[str, dict[str, Any]]) -> list[str]:
    """Return the evaluations as a Markdown table, or the sentence that there are none."""
    rows = [
        f"| {folder} | {found.get('cases_with_region', {}).get(region, found['cases'])} | {region} | {score} | "
        f"{value['mean']:.4f} | {_or_blank(value, 'sd')} | {_or_blank(value, 'low')} | {_or_blank(value, 'high')} |"
        for folder, found in scores.items()
        for region, table in found.items()
        if region not in BESIDE_SCORES
        for score, value in table.items()
        if value["mean"] is not None
    ]
    claims = [
        f"{folder}: of {free['cases']} cases without {region} {free['with_prediction']} with false positives, "
        f"{free['ml']:.1f} ml in all."
        for folder, found in scores.items()
        for region, free in found.get("false_positives", {}).items()
        if free["cases"]
    ]
    if not rows:
        return ["This checkpoint has not been evaluated.", *claims]
    head = ["| evaluation | cases | region | score | mean | SD | 95 % from | to |", "|---|---|---|---|---|---|---|---|"]
    return [*head, *rows, *[line for claim in claims for line in ("", claim)]]


def _or_blank(value: dict[str, Any], name: str) -> str:
    old = name != "sd" and "patients" not in value  # the intervals of old evaluations covered less than they said
    return "" if old or value.get(name) is None else f"{value[name]:.4f}"


def speed_lines(facts: dict[str, Any]) -> list[str]:
    """Return what was measured on the exporting machine."""
    lines = [
        f"Precision {facts.get('precision', '?')}{', XLA' if facts.get('xla') else ''}; `volume` answered "
        f"{facts['check']['volume_slices_per_s']} slices/s on the machine that exported it."
    ]
    if beside := facts.get("beside_float32"):
        lines.append(
            f"Beside float32 without XLA on that machine: {beside['speed']:.2f} times as fast; "
            f"Dice {beside['dice']:.5f} between the masks, "
            f"probabilities at most {beside['max_probability_difference']:.2g} apart."
        )
    if own := facts.get("beside_predict"):
        lines.append(
            f"`predict` resizes with OpenCV, the served model with TensorFlow: Dice {own['dice']:.5f} between "
            f"their masks, probabilities at most {own['max_probability_difference']:.2g} apart."
        )
    return lines
