"""The network: segmentation_models' Unet with a float32 head that gives logits."""

import contextlib
import io
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_liver.experiment import Experiment, ExperimentError
from tf_liver.model.losses import LOSSES
from tf_liver.model.metrics import liver_metrics
from tf_liver.model.precision import choose_policy
from tf_liver.model.weights import check_weights

with contextlib.redirect_stdout(io.StringIO()):  # it announces its framework on import
    import segmentation_models


def build_network(experiment: Experiment) -> tf.keras.Model:
    """Return the untrained network under the experiment's precision policy.

    network(images): (B, H, W, 1) in the compute type → logits (B, H, W, 1) float32; H and W multiples of 32.

    The library's own head computes in float16 under mixed precision; ours is a float32 convolution in its place.

    Raises:
        ExperimentError: a backbone that segmentation_models does not have.
    """
    backbones = segmentation_models.get_available_backbone_names()
    if experiment.backbone not in backbones:
        raise ExperimentError(
            f"backbone: must be one of {', '.join(sorted(backbones))}. Received: {experiment.backbone!r}"
        )
    tf.keras.mixed_precision.set_global_policy(choose_policy(experiment.precision))
    unet = segmentation_models.Unet(
        experiment.backbone, input_shape=(None, None, 1), classes=1, activation="linear", encoder_weights=None
    )
    features = unet.get_layer("final_conv").input
    logits = tf.keras.layers.Conv2D(
        1, 3, padding="same", kernel_initializer="glorot_uniform", dtype="float32", name="logits"
    )(features)
    network = tf.keras.Model(unet.input, logits, name=experiment.name)
    for layer in network.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = experiment.batch_norm_momentum
    return network


def compile_network(network: tf.keras.Model, experiment: Experiment, steps_per_epoch: int) -> None:
    """Give the network its optimizer, loss and metrics."""
    rate: Any = experiment.learning_rate
    if experiment.schedule == "cosine":
        rate = tf.keras.optimizers.schedules.CosineDecay(rate, experiment.epochs * steps_per_epoch)
    network.compile(
        tf.keras.optimizers.Adam(rate),
        LOSSES[experiment.loss],
        metrics=liver_metrics(),
    )


def load_network(experiment: Experiment, weights: str) -> tf.keras.Model:
    """Return the network with trained weights: built in code, so nothing in the file is ever executed.

    Raises:
        ValueError: a file that does not hold this network's weights; the message names it.
    """
    network = build_network(experiment)
    check_weights(Path(weights), network)
    try:
        network.load_weights(weights)
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{weights}: does not hold the weights of {experiment.name}: {reason}") from error
    return network
