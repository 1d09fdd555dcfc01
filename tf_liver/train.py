"""Train an experiment on one fold of a Task03_Liver folder, into a new run folder."""

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from tf_liver.data.build import PREPARED, default_folder, prepare
from tf_liver.data.cases import DEFAULT_DATA, Split, choose_split, find_cases
from tf_liver.data.index import SliceIndex, index_labels
from tf_liver.data.store import SliceStore
from tf_liver.experiment import Experiment, load, replace
from tf_liver.runs import RUNS, Run, require_writable


@dataclass
class TrainOptions:
    """Machine facts; what is learnt is decided by the experiment."""

    experiment: str = option("baseline", "name of a file in experiments/, or a path to one")
    data: Path = option(DEFAULT_DATA, "Task03_Liver folder: imagesTr/, labelsTr/, dataset.json")
    fold: int = option(0, "which fold's cases are held out")
    seed: int = option(0, "seed of weights, order and augmentation; the folds do not depend on it")
    workers: int = option(os.cpu_count() or 1, "processes that prepare and load slices; threads with --no-store")
    runs: Path = option(RUNS, "where the run folder is made")
    store: bool = option(True, "stream from the scans instead of preparing their slices once", args=["--no-store"])
    prepared: Path = option(PREPARED, "folder under which prepared slices are kept")
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from the experiment to a trained run folder."""
    options, changes = parse_with_experiment(TrainOptions, argv, "train", __doc__)
    check_option("workers", options.workers, 1)
    check_option("seed", options.seed, 0, 2**32 - 1)
    experiment = replace(load(options.experiment), **changes)
    split = choose_split(find_cases(options.data), experiment.folds, options.fold)
    require_writable(options.runs)

    tf = quiet_tensorflow()
    from tf_liver.callbacks import Checkpoints, TimedModel, all_callbacks
    from tf_liver.data.index import epoch_length, steps_per_epoch
    from tf_liver.data.pipeline import data_error
    from tf_liver.model.precision import choose_policy, device_line
    from tf_liver.model.unet import build_network, compile_network

    device, policy = device_line(), choose_policy(experiment.precision)
    print(f"training {experiment.name} on {device}; precision {policy}", flush=True)

    tf.keras.utils.set_random_seed(options.seed)
    network = build_network(experiment)  # before the slices are prepared: it may have to refuse the backbone
    loaders = contextlib.ExitStack()  # the processes that load batches, which end with the training
    training, validation, train, held_out = _batches(options, experiment, split, loaders)

    model = TimedModel(network.input, network.output)
    steps = steps_per_epoch(train, experiment.negative_ratio, experiment.batch_size)
    compile_network(model, experiment, steps)

    facts = {"command": command_line("train", argv), "data": str(options.data.resolve()), "fold": options.fold}
    facts |= {"seed": options.seed, "workers": options.workers, "device": device, "policy": policy}
    run = Run.create(options.runs, experiment, facts, split.case_ids)
    slices = epoch_length(train, experiment.negative_ratio)
    print(f"run folder {run.path}: {slices} slices of {len(split.train)} cases train, ", end="")
    print(f"{epoch_length(held_out, 0.0)} of {len(split.held_out)} held out", flush=True)

    start = time.perf_counter()
    checkpoints = Checkpoints(run)
    try:
        model.fit(
            training,
            epochs=experiment.epochs,
            steps_per_epoch=steps,
            validation_data=validation,
            callbacks=all_callbacks(run, experiment, checkpoints, slices, validation),
            verbose=0,
        )
    except KeyboardInterrupt:
        if checkpoints.model is not None:  # else fit has not begun
            checkpoints.save("last")
            print(f"interrupted; the last weights are in {run.checkpoint('last')}", file=sys.stderr)
        raise
    except tf.errors.OpError as error:
        raise data_error(error) from error
    finally:
        loaders.close()
    minutes = (time.perf_counter() - start) / 60
    print(
        f"{run.path}: best validation Dice {checkpoints.best:.4f} at epoch {checkpoints.best_epoch}, {minutes:.1f} min"
    )
    return DONE


def _batches(
    options: TrainOptions, experiment: Experiment, split: Split, loaders: contextlib.ExitStack
) -> tuple[Any, Any, SliceIndex, SliceIndex]:
    """Return training and validation batches and their indices, from prepared slices or from the scans."""
    from tf_liver.data import pipeline

    if options.store:
        folder = default_folder(options.data, options.prepared)
        prepare([*split.train, *split.held_out], folder, options.workers)
        train, held_out = SliceStore(folder, split.train), SliceStore(folder, split.held_out)
        load = loaders.enter_context(pipeline.training_loader(train, experiment, options.workers))
        training = pipeline.stored_batches(train, experiment, options.seed, options.workers, load=load)
        validation = pipeline.stored_validation(held_out, experiment)
        return training, validation, train.index, held_out.index
    indices = [index_labels(cases, options.workers) for cases in (split.train, split.held_out)]
    training = pipeline.streamed_batches(indices[0], experiment, options.seed, options.workers)
    validation = pipeline.streamed_validation(indices[1], experiment)
    return training, validation, *indices


if __name__ == "__main__":
    sys.exit(main())
