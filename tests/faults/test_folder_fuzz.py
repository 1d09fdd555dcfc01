"""Seeded damage to what lies in prepared stores, run, cross-validation and evaluation folders."""

import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from small import write_nifti

from tf_liver.data import DataError
from tf_liver.data.build import prepare
from tf_liver.data.cases import find_cases
from tf_liver.data.store import SliceStore
from tf_liver.ensemble import held_out_cases, open_runs
from tf_liver.experiment import load
from tf_liver.folds import CrossValidation
from tf_liver.model.weights import check_arrays
from tf_liver.runs import Run
from tf_liver.state import State, newest_state, save_state
from tf_liver.volume.compare import compare
from tf_liver.volume.evaluation import read_evaluation
from tf_liver.volume.report import write_report

VALUES = [None, True, 0, -1, 1.5, 1e400, "", "x", [], [None], {}, {"a": None}, [[1]], 10**30, float("nan"), "\udcff"]


def damage_bytes(path: Path, rng: random.Random) -> str:
    """Change a file in a way that disks, editors and power cuts do; say how."""
    data, way = bytearray(path.read_bytes()), rng.randrange(7)
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
    return ["empty", "cut", "bits", "overwritten", "longer", "zeros", "gone"][way]


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
        path = rng.choice(sorted(p for p in folder.iterdir() if p.name != ".lock"))
        how = damage_json(path, rng) if path.suffix == ".json" and rng.random() < 0.5 else damage_bytes(path, rng)
        begin = time.monotonic()
        built = prepare(find_cases(phantoms), folder, 1, full=True, say=lambda _: None)
        assert set(built) <= {path.name.split(".")[0]}, f"{path.name} {how}: only the damaged case is built"
        assert all_slices(folder, cases) == whole, f"{path.name} {how}"
        assert time.monotonic() - begin < 10
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
    compare(evaluation.folder, evaluation.folder)
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
    files = [f for f in files if "predictions" not in f.parts and f.name != "log.csv"]
    for n in range(number):
        root = tmp_path / f"folder{n}"
        shutil.copytree(folder, root)
        name = rng.choice(files)
        is_json = name.suffix == ".json" and rng.random() < 0.7
        how = damage_json(root / name, rng) if is_json else damage_bytes(root / name, rng)
        begin = time.monotonic()
        refusal = attempt(root, "evaluation" in name.parts)
        assert time.monotonic() - begin < 10, f"{name}: {how}"
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
def test_many_damaged_run_folders(folder, tmp_path, capsys):
    assert sum(check_folders(240, 2, folder, tmp_path).values()) == 240


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
