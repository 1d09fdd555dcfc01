"""What the JSON files of run, cross-validation and evaluation folders hold: `files.read_json` checks it."""

from typing import Any, NotRequired, Required, TypedDict


class RunFacts(TypedDict, total=False):
    """What run.json holds, as far as a run of its time had it."""

    format: int
    data: Required[str]
    prepared: str
    fold: int
    seed: int
    store: bool
    deterministic: bool
    policy: str
    device: str
    started: str
    python: str
    command: str
    versions: dict[str, str]


class RunSplit(TypedDict):
    """What split.json holds: the case_ids of both sides, and case_id → patient; older runs name no patients."""

    train: list[str]
    held_out: list[str]
    patients: NotRequired[dict[str, str]]


class Figures(TypedDict, total=False):
    """What summary.json says of one score."""

    mean: float | None
    sd: float | None
    median: float | None
    q1: float | None
    q3: float | None
    low: float | None
    high: float | None
    patients: int
    undefined: int
    no_interval: str


class Claims(TypedDict):
    """What summary.json says of the cases without a region: what is claimed in them."""

    cases: int
    with_prediction: int
    lesions: NotRequired[float]
    ml: float


class Summary(TypedDict, total=False):
    """What an evaluation's summary.json holds, as far as it is read again."""

    cases: int
    liver: str
    run: str
    data: str
    checkpoint: str
    predictions: str
    interval: str
    patients: dict[str, str]
    failed: dict[str, str]
    placeholder_spacing: dict[str, str]
    regions: dict[str, dict[str, Figures]]
    cases_with_region: dict[str, int]
    false_positives: dict[str, Claims]


class Entry(TypedDict, total=False):
    """What is known of a run: epochs trained, what was scored on which weights, when it trained, from and to in s."""

    epochs: int
    scored: dict[str, str]
    sessions: list[list[float | None]]


class CrossvalTable(TypedDict):
    """What crossval.json holds. folds: case_id → the fold that holds it out."""

    format: NotRequired[int]
    experiment: dict[str, Any]
    command: NotRequired[str]
    data: str
    folds: dict[str, int]
    seeds: list[int]
    started: NotRequired[str]
    runs: dict[str, Entry]
