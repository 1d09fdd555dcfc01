"""Seeded damage to what lies in prepared stores, run, cross-validation and evaluation folders."""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from evaluations import LOG
from small import write_nifti

from tf_liver.data import DataError, DataWarning
from tf_liver.data.build import prepare
from tf_liver.data.cases import find_cases
from tf_liver.data.store import MANIFEST, SliceStore
from tf_liver.ensemble import held_out_cases, open_runs
from tf_liver.experiment import load
from tf_liver.folds import CrossValidation
from tf_liver.model.weights import check_arrays
from tf_liver.plan import make_plan
from tf_liver.runs import Run, RunError
from tf_liver.serving.card import score_lines, scores_of
from tf_liver.state import State, newest_state, save_state
from tf_liver.volume.compare import compare
from tf_liver.volume.evaluation import read_evaluation
from tf_liver.volume.report import write_report
from tf_liver.volume.tables import to_json

VALUES = [None, True, 0, -1, 1.5, 1e400, "", "x", [], [None], {}, {"a": None}, [[1]], 10**30, float("nan"), "\udcff"]
VALUES += [10**400, {"mean": "x"}, "../../x", "a\0b", "x" * 5000]


@contextmanager
def within(seconds: int, what: str) -> Iterator[None]:
    """Fail what takes longer, also where it waits for a pipe."""

    def fail(*_: object) -> None:
        pytest.fail(f"{what}: no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damage_bytes(path: Path, rng: random.Random) -> str:
    """Change a file in a way that disks, editors and power cuts do; say how."""
    data, way = bytearray(path.read_bytes()), rng.randrange(11)
    if way == 0:
        path.write_bytes(b"")
    elif way == 1:
        path.write_bytes(data[: rng.randrange(len(data) + 1)])
    elif way == 2:
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif way == 3:
        at = rng.randrange(min(len(data), 300))
        data[at : at + 20] = rng.randbytes(20)
        path.write_bytes(data)
    elif way == 4:
        path.write_bytes(data + rng.randbytes(rng.randint(1, 50)))
    elif way == 5:
        path.write_bytes(bytes(len(data)))
    else:
        path.unlink()
        replaced = {7: path.mkdir, 8: lambda: os.mkfifo(path), 9: lambda: path.symlink_to(path), 10: lambda: None}
        replaced.get(way, lambda: path.symlink_to("nowhere"))()
    return ["empty", "cut", "bits", "overwritten", "longer", "zeros", "link", "folder", "pipe", "loop", "gone"][way]


def damage_csv(path: Path, rng: random.Random) -> str:
    """Repeat or remove a row of a CSV file, or change or remove a cell; say which."""
    lines = path.read_text().splitlines()
    n, way = rng.randrange(len(lines)), rng.randrange(4)
    cells = lines[n].split(",")
    cell = rng.randrange(len(cells))
    if way == 0:
        lines.append(lines[n])
    elif way == 1:
        del lines[n]
    elif way == 2:
        cells[cell] = rng.choice(["", "x", "inf", "1e999", "-1", '"'])
    else:
        del cells[cell]
    if way > 1:
        lines[n] = ",".join(cells)
    path.write_text("".join(f"{line}\n" for line in lines))
    return f"row {n}, {['repeated', 'removed', 'another cell', 'a cell less'][way]}"


def damage_json(path: Path, rng: random.Random) -> str:
    """Change, remove or add one value somewhere in a JSON file; say which."""
    table = json.loads(path.read_text())
    place, where = table, []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = rng.choice(keys)
        where.append(str(key))
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        if rng.random() < 0.3:
            del place[key]
        else:
            place[key] = rng.choice(VALUES)
        break
    path.write_text(json.dumps(table))
    return ".".join(where)


@pytest.fixture(scope="module")
def store(phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "prepared"
    prepare(find_cases(phantoms), folder, 1, say=lambda _: None)
    return folder


def all_slices(folder, cases):
    store = SliceStore(folder, cases)
    depths = store.index.depths
    return [[tuple(a.tobytes() for a in store.read(c, z)) for z in range(depths[c])] for c in range(len(cases))]


def check_store(number, seed, phantoms, store, tmp_path):
    rng, cases = random.Random(seed), find_cases(phantoms)[:2]
    whole = all_slices(store, cases)
    for n in range(number):
        folder = shutil.copytree(store, tmp_path / f"store{n}")
        path, said = rng.choice(sorted(p for p in folder.iterdir() if p.name != ".lock")), []
        is_json = path.suffix == ".json" or path.name == MANIFEST
        how = damage_json(path, rng) if is_json and rng.random() < 0.5 else damage_bytes(path, rng)
        with within(10, f"{path.name} {how}"):
            built = prepare(find_cases(phantoms), folder, 1, full=True, say=said.append)
        assert set(built) <= {path.name.split(".")[0]}, f"{path.name} {how}: only the damaged case is built"
        assert all(path.name in said[0] for _ in built), f"{path.name} {how}: it is named"
        assert all_slices(folder, cases) == whole, f"{path.name} {how}"
        shutil.rmtree(folder)


def test_a_damaged_store_heals(phantoms, store, tmp_path):
    check_store(25, 1, phantoms, store, tmp_path)


@pytest.mark.slow
def test_two_hundred_damaged_stores_heal(phantoms, store, tmp_path):
    check_store(200, 2, phantoms, store, tmp_path)


@pytest.fixture(scope="module")
def folder(trained, evaluated, phantoms, tmp_path_factory):
    """A run with an evaluation, and a cross-validation; its weights and state are small, to be copied often."""
    root = tmp_path_factory.mktemp("folders")
    run = shutil.copytree(trained, root / "run", ignore=shutil.ignore_patterns("*.h5", "*.npz", "tensorboard"))
    for which in ("best", "last"):
        with Run(run).replacing_checkpoint(which) as beside, h5py.File(beside, "w") as file:
            for layer in ("a", "b"):
                file.create_dataset(f"layers/{layer}/vars/0", data=np.arange(50, dtype=np.float32))
    save_state(run / "checkpoints", State({}, names=["kernel"], arrays=[np.zeros(20)]))
    shutil.copytree(evaluated, run / "evaluation")
    shutil.copytree(evaluated, run / "evaluation-other")
    (run / "log.csv").write_text(LOG)
    whole = CrossValidation.create(
        root / "crossval", load("demo"), data=str(phantoms), folds={"phantom_00": 0, "phantom_01": 1}, seeds=[0]
    )
    with whole.training(whole.members[0]):
        whole.note_scored(whole.members[0].name, "evaluation", "x")
    return root


def use(root, report=True):
    """Read all that commands read of these folders; report: draw the page too, which takes half a second."""
    run = Run.open(root / "run")
    open_runs([root / "run"], "best")
    held_out_cases([run], None)
    assert run.trained_experiment
    newest_state(run.path / "checkpoints")
    check_arrays(run.checkpoint("last"), 10**8)
    evaluation = read_evaluation(run.path / "evaluation")
    if report:
        write_report(evaluation.folder, [], run.path)
    to_json(compare(evaluation.folder, run.path / "evaluation-other"))
    assert score_lines(scores_of(run, "best"))
    make_plan(run, None, {}, **dict.fromkeys(("data", "prepared", "fold", "seed", "store", "deterministic")))
    whole = CrossValidation.open(root / "crossval")
    assert whole.experiment
    assert whole.data
    for member in whole.members:
        whole.is_trained(member)
        whole.minutes(member)
        whole.is_scored(member.name, "evaluation", "x")
        whole.held_out(member.fold)


def check_folders(number, seed, folder, tmp_path):
    rng, seen = random.Random(seed), Counter()
    use(shutil.copytree(folder, tmp_path / "whole"))
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.suffix in (".json", ".csv", ".npz", ".h5"))
    files = [f for f in files if "predictions" not in f.parts]
    for n in range(number):
        root = tmp_path / f"folder{n}"
        shutil.copytree(folder, root)
        name = rng.choice(files)
        ways = {".json": damage_json, ".csv": damage_csv}
        how = (ways.get(name.suffix, damage_bytes) if rng.random() < 0.7 else damage_bytes)(root / name, rng)
        with within(10, f"{name}: {how}"):
            refusal = attempt(root, "evaluation" in name.parts or name.name == "log.csv")
        assert not refusal or name.name in refusal or name.parent.name in refusal, f"{name}: {how}: {refusal}"
        seen["refused" if refusal else "read"] += 1
        shutil.rmtree(root)
    return seen


def attempt(root, report):
    try:
        use(root, report)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def test_damaged_run_folders_are_refused_by_name(folder, tmp_path, capsys):
    assert check_folders(25, 1, folder, tmp_path)["refused"] > 6


@pytest.mark.slow
def test_five_hundred_damaged_run_folders(folder, tmp_path, capsys):
    assert sum(check_folders(500, 2, folder, tmp_path).values()) == 500


def test_groups_that_hold_themselves_are_refused_at_once(tmp_path):
    with h5py.File(tmp_path / "loop.weights.h5", "w") as file:
        group = file.create_group("layers")
        group["weights"] = np.zeros(3)
        group["again"] = group
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"loop\.weights\.h5: /layers/again: a group may be there once"):
        check_arrays(tmp_path / "loop.weights.h5", 10)
    assert time.monotonic() - begin < 1


def test_bit_rot_in_weights_is_refused_by_name(tmp_path):
    path = tmp_path / "rot.weights.h5"
    with h5py.File(path, "w") as file:
        for n in range(8):
            file.create_dataset(f"layers/layer{n}/vars/0", data=np.arange(30, dtype=np.float32))
    whole, rng, refusals = path.read_bytes(), random.Random(0), []
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            check_arrays(path, 30)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all(str(path) in refusal for refusal in refusals)


def write_case(data, case_id):
    for kind, dtype in (("imagesTr", np.int16), ("labelsTr", np.uint8)):
        voxels = np.zeros((32, 32, 4), dtype)
        voxels[8:20, 8:20, 1:3] = 1
        voxels[0, 0, 0] = len(case_id) * (dtype == np.int16)
        write_nifti(data / kind / f"{case_id}.nii.gz", voxels)


@pytest.mark.parametrize("case_id", ["manifest", "MANIFEST", "summary", "a.images", "x" * 200])
def test_a_case_called_like_a_file_of_ours_is_prepared_once(tmp_path, case_id):
    for name in (case_id, "b"):
        write_case(tmp_path / "data", name)
    cases = find_cases(tmp_path / "data")
    assert sorted(prepare(cases, tmp_path / "store", 1, say=lambda _: None)) == sorted([case_id, "b"])
    assert prepare(cases, tmp_path / "store", 1, say=lambda _: None) == []
    assert len(all_slices(tmp_path / "store", cases)[0]) == 4


def test_long_names_are_refused_by_name(tmp_path):
    write_case(tmp_path, "x" * 201)
    with pytest.raises(DataError, match=r"x\.nii\.gz: a case's name must have 200 bytes or less. Received: 201"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", '{"data": "a", "data": "b"}', "not JSON: twice in one object: data"),
        ("run.json", '{"data": "a", "fold": 1e400}', "not JSON: no number of 64 bits: 1e400"),
        ("run.json", '{"data": "a", "seed": -1}', r"seed must lie in \[0, 4294967295\]"),
        ("run.json", '{"data": "a", "versions": {"numpy": 2}}', r"versions\.numpy must be str. Received: 2"),
        ("split.json", '{"train": ["a"], "held_out": ["a"]}', "train and held_out must share no case. Received: a"),
        ("split.json", '{"train": ["a", 1], "held_out": ["b"]}', r"train\[1\] must be str. Received: 1"),
        ("split.json", '{"train": ["a"], "held_out": []}', "held_out must name a case. Received: none"),
        ("split.json", '{"train": ["a"]}', "must hold held_out. Received: an object without it"),
    ],
)
def test_file_and_field_are_named(folder, tmp_path, name, content, message):
    root = shutil.copytree(folder, tmp_path / "root")
    (root / "run" / name).write_text(content)
    with pytest.raises(RunError, match=rf"run/{name}: {message}"):
        use(root, report=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "must hold whole rows|must end with the end of a line"),
        (lambda text: text.rstrip(), "must end with the end of a line"),
        (
            lambda text: "".join(text.splitlines(keepends=True)[:-2]),
            "must hold the 4 cases of summary.json. Received: 3",
        ),
        (lambda text: text + text.splitlines(keepends=True)[-1], "must have one row a region. Received: two of"),
    ],
)
def test_scores_that_are_cut_or_there_twice_are_refused(evaluation, change, message):
    path = evaluation / "metrics.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=rf"metrics\.csv: a?.*({message})"):
        read_evaluation(evaluation)


def test_a_damaged_log_costs_the_curves_only(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "root")
    (root / "run" / "log.csv").write_bytes(b"epoch,dice\n0,\xff\n")
    with pytest.warns(DataWarning, match=r"no learning curves: .*log\.csv: not CSV"):
        page = write_report(root / "run" / "evaluation", [], root / "run").read_text()
    assert "Learning curves" not in page
    assert "Learning curves" in write_report(root / "run" / "evaluation", [], folder / "run").read_text()


def test_a_newer_format_is_refused(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "root")
    for path in (root / "run" / "run.json", root / "crossval" / "crossval.json"):
        whole = path.read_text()
        path.write_text(json.dumps({**json.loads(whole), "format": 2}))
        assert attempt(root, False) == f"{path}: format must be 1. Received: 2, of a newer tf_liver"
        table = json.loads(whole)
        del table["format"]
        path.write_text(json.dumps(table))
        assert attempt(root, False) == "", "as runs were before there was a number"
