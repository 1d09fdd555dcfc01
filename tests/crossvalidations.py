"""A cross-validation folder made of copies of one small run, so that nothing needs to be trained for a test."""

import json
import os
import shutil

from tf_liver.data.cases import FOLD_SEED, find_cases, split_folds
from tf_liver.experiment import replace
from tf_liver.folds import CrossValidation
from tf_liver.runs import Run


def copied(source, target):
    """Copy a folder, its large weights as links, without the states to go on from."""

    def copy(one, other):
        return os.link(one, other) if one.endswith(".h5") else shutil.copy2(one, other)

    return shutil.copytree(source, target, copy_function=copy, ignore=shutil.ignore_patterns("state-*"))


def write_crossvalidation(path, trained, data, seeds=(0,), folds=2):
    """Two folds, each a copy of the trained run that says it held out the fold's cases."""
    experiment = replace(Run.open(trained).experiment, folds=folds)
    splits = split_folds(find_cases(data), folds, FOLD_SEED)
    dealt = {case.case_id: number for number, split in enumerate(splits) for case in split.held_out}
    path.mkdir()
    whole = CrossValidation.create(path, experiment, command="…", data=str(data), folds=dealt, seeds=list(seeds))
    for member in whole.members:
        run = Run(copied(trained, path / member.name))
        (run.path / "experiment.json").write_text(experiment.to_json())
        (run.path / "split.json").write_text(json.dumps(splits[member.fold].case_ids))
        facts = run.read_json("run.json") | {"fold": member.fold, "seed": member.seed}
        (run.path / "run.json").write_text(json.dumps(facts))
        with whole.training(member):
            pass
    return whole
