"""Train an experiment on one fold of a Task03_Liver folder, into a new run folder or on from where one stopped."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from tf_liver.command import (
    DONE,
    check_option,
    command,
    command_line,
    debug_option,
    option,
    parse_with_experiment,
    quiet_tensorflow,
)
from tf_liver.data.build import PREPARED
from tf_liver.data.cases import DEFAULT_DATA
from tf_liver.experiment import EXPERIMENT_MEANT, replace
from tf_liver.files import require_writable
from tf_liver.history import MONITOR, best_row
from tf_liver.plan import Plan, locked, make_plan, run_to_go_on
from tf_liver.runs import RUNS, Run

STRATEGIES = ("auto", "none", "mirrored", "multiworker")

if TYPE_CHECKING:
    from tf_liver.strategy import Cluster
    from tf_liver.training import Training


@dataclass
class TrainOptions:
    """Machine facts; what is learnt is decided by the experiment."""

    experiment: Optional[str] = option(None, EXPERIMENT_MEANT)
    data: Optional[Path] = option(
        None, f"Task03_Liver folder: imagesTr/, labelsTr/, dataset.json (default: {DEFAULT_DATA})", type=Path
    )
    fold: Optional[int] = option(None, "which fold's cases are held out (default: 0)", type=int)
    seed: Optional[int] = option(
        None, "seed of weights, order and augmentation; the folds do not depend on it (default: 0)", type=int
    )
    workers: int = option(os.cpu_count() or 1, "processes that prepare and load slices; threads with --no-store")
    runs: Path = option(RUNS, "where the run folder is made")
    run: Optional[Path] = option(
        None, "the run folder itself: made if there is none, gone on with if there is one", type=Path
    )
    resume: Optional[Path] = option(
        None, "a run folder to go on with, where it stopped; --epochs may be raised", type=Path
    )
    max_minutes: Optional[float] = option(
        None, "save the state and end after so many minutes, exit code 0; --resume goes on", type=float
    )
    save_minutes: float = option(10.0, "how often the state is saved within an epoch; after an epoch it always is")
    strategy: str = option(
        "auto",
        "auto: all visible GPUs, or the workers of TF_CONFIG; none: one device; mirrored: all devices here; "
        "multiworker: the workers of TF_CONFIG or SLURM, with --run a folder that all of them see",
        choices=STRATEGIES,
    )
    store: bool = option(True, "stream from the scans instead of preparing their slices once", args=["--no-store"])
    prepared: Optional[Path] = option(
        None, f"folder under which prepared slices are kept (default: {PREPARED})", type=Path
    )
    offline: bool = option(False, "never ask the network: imagenet's encoder_weights must lie in Keras' folder")
    xla: bool = option(
        False, "compile the steps with XLA; half as fast on CPUs (benchmarks/README.md), one device only"
    )
    deterministic: bool = option(
        False, "the same bits again on the same machine, on a GPU too, where it may cost speed"
    )
    mlflow: Optional[str] = option(
        None, "folder or address of an MLflow store to write to as well; needs the extra mlflow"
    )
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from the experiment, or from a run that stopped, to a trained run folder."""
    begin = time.monotonic()
    options, changes = parse_with_experiment(TrainOptions, argv, "train", __doc__)
    _check(options)
    plan = _plan(options, changes)

    tf = quiet_tensorflow(devices=options.strategy != "multiworker" and "TF_CONFIG" not in os.environ)
    from tf_liver.data.source import open_source
    from tf_liver.model.batch_norm import unsettled
    from tf_liver.model.precision import choose_policy, device_line
    from tf_liver.model.unet import build_network, compile_network
    from tf_liver.strategy import choose_cluster
    from tf_liver.training import Training

    cluster = choose_cluster(options.strategy)
    device, policy = device_line(), choose_policy(plan.precision)
    print(f"training {plan.experiment.name} on {device}; precision {policy}", flush=True)
    experiment, seed = replace(plan.experiment, precision=policy), plan.facts["seed"]
    tf.keras.utils.set_random_seed(seed)
    if plan.facts["deterministic"]:
        tf.config.experimental.enable_op_determinism()
    with cluster.strategy.scope():
        # Before the slices are prepared: it may have to refuse the backbone, or what the encoder begins with.
        network = build_network(experiment, fresh=not (plan.run and plan.run.begun), offline=options.offline)

    with contextlib.ExitStack() as opened:  # the processes that load batches, and the lock on the run
        slices = open_source(plan.data, plan.prepared, plan.split, experiment, seed, options.workers)
        source = opened.enter_context(slices)
        with cluster.strategy.scope():
            compile_network(network, experiment, source.steps, seed)
        machine = {"workers": options.workers, "device": device, "policy": policy, "strategy": options.strategy}
        run = _run_folder(options, plan, {"command": command_line("train", argv), **plan.facts, **machine}, cluster)
        if cluster.is_chief:
            opened.enter_context(locked(run))
        print(f"run folder {run.path}: {source.summary}", flush=True)
        if (doubt := unsettled(experiment, source.steps)) and cluster.is_chief:
            print(f"warning: {doubt}", file=sys.stderr, flush=True)
        training = Training(run, plan.identity(policy), experiment, network, cluster, source, options.xla)
        _go_on(training, options, plan, begin)
    return _say_end(training, (time.monotonic() - begin) / 60, doubt)


def _plan(options: TrainOptions, changes: dict[str, Any]) -> Plan:
    """Return what the options ask for; refuse before TensorFlow is loaded what can be refused by then."""
    old = run_to_go_on(options.resume, options.run)
    given = {name: getattr(options, name) for name in ("data", "prepared", "fold", "seed")}
    given |= {"store": None if options.store else False, "deterministic": options.deterministic or None}
    plan = make_plan(old, options.experiment, changes, **given)
    require_writable(old.path if old else options.run or options.runs)
    return plan


def _go_on(training: "Training", options: TrainOptions, plan: Plan, begin: float) -> None:
    """Train from the newest state on, or from the beginning, and tell of it."""
    from tf_liver.callbacks import telling

    run, is_chief = training.run, training.cluster.is_chief
    training.recall()
    if is_chief:
        run.write_experiment(plan.experiment)  # with more epochs, perhaps
    mlflow = _mlflow(options, run) if is_chief else None
    callbacks = telling(run, training.source) + ([mlflow] if mlflow else [])
    training.go_on(begin + 60 * (options.max_minutes or math.inf), options.save_minutes, callbacks)
    if mlflow and training.state.rows:
        mlflow.finish()


def _run_folder(options: TrainOptions, plan: Plan, facts: dict[str, Any], cluster: "Cluster") -> Run:
    """Return the run to go on with, or a new one, which the chief makes."""
    if plan.run:
        return plan.run
    if cluster.is_chief:
        return Run.create(options.runs, plan.experiment, facts, plan.split.case_ids, options.run)
    assert options.run  # _check has seen to it
    return Run(options.run)


def _mlflow(options: TrainOptions, run: Run) -> Any:
    """Return what writes to the MLflow store; None if none was asked for."""
    if not options.mlflow:
        return None
    from tf_liver.tracking import MLflow

    return MLflow(options.mlflow, run)


def _check(options: TrainOptions) -> None:
    """Refuse numbers that make no sense."""
    check_option("workers", options.workers, 1)
    check_option("seed", options.seed or 0, 0, 2**32 - 1)
    if options.strategy == "multiworker" and not (options.run or options.resume):
        raise ValueError("--strategy multiworker: needs --run, a folder that all workers see. Received: none")
    if options.max_minutes is not None and not options.max_minutes > 0:
        raise ValueError(f"--max-minutes: must lie above 0. Received: {options.max_minutes}")
    if not options.save_minutes > 0:
        raise ValueError(f"--save-minutes: must lie above 0. Received: {options.save_minutes}")


def _say_end(training: "Training", minutes: float, doubt: str) -> int:
    """Print what came out, and how to go on if the training is not finished; return the exit code."""
    run, state = training.run, training.state
    if training.ended in ("interrupted", "out of time"):
        where = f"{training.ended} after epoch {state.epoch}, step {state.step}; the state is saved"
        print(f"{where}; go on with: python -m tf_liver.train --resume {run.path}", file=sys.stderr, flush=True)
        if training.ended == "interrupted":
            raise KeyboardInterrupt
    if best := best_row(state.rows):
        epoch, dice = int(best["epoch"]) + 1, best[MONITOR]
        but = f"; {doubt}" if doubt else ""
        print(f"{run.path}: best validation Dice {dice:.4f} at epoch {epoch}, {minutes:.1f} min{but}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
