"""The network: segmentation_models' Unet with a float32 head that gives logits."""

import contextlib
import io
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_liver.experiment import Experiment, ExperimentError
from tf_liver.model.batch_norm import BatchNormalization
from tf_liver.model.losses import LOSSES
from tf_liver.model.optimizer import FusedAdam
from tf_liver.model.precision import choose_policy
from tf_liver.model.regions import channels_of
from tf_liver.model.weights import check_weights

with contextlib.redirect_stdout(io.StringIO()):  # it announces its framework on import
    import segmentation_models


def build_network(experiment: Experiment) -> tf.keras.Model:
    """Return the untrained network under the experiment's precision policy.

    network(images): (B, H, W, 1) in the compute type → logits (B, H, W, C) float32; H and W multiples of 32.
    C: see regions.py.

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
    body = tf.keras.models.clone_model(
        tf.keras.Model(unet.input, unet.get_layer("final_conv").input),
        clone_function=lambda layer: _ours(layer, experiment),
    )
    logits = tf.keras.layers.Conv2D(
        channels_of(experiment),
        3,
        padding="same",
        kernel_initializer="glorot_uniform",
        dtype="float32",
        name="logits",
    )(body.output)
    return tf.keras.Model(body.input, logits, name=experiment.name)


def _ours(layer: tf.keras.layers.Layer, experiment: Experiment) -> tf.keras.layers.Layer:
    """Return a fresh layer in the place of one of the library's."""
    config = layer.get_config()
    if isinstance(layer, tf.keras.layers.UpSampling2D):
        return Repeat2D(name=layer.name)
    if isinstance(layer, tf.keras.layers.BatchNormalization):
        config["momentum"] = experiment.batch_norm_momentum
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return BatchNormalization.from_config(config)
    return type(layer).from_config(config)


class Repeat2D(tf.keras.layers.Layer):
    """Every pixel twice in both directions, bit for bit what UpSampling2D(2) gives.

    That one is a nearest-neighbour resize, for whose gradient XLA has no kernel (tensorflow issue 57575).
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """(B, H, W, C) → (B, 2H, 2W, C)."""
        batch, height, width = tf.unstack(tf.shape(inputs)[:3])
        channels = inputs.shape[-1]
        twice = tf.broadcast_to(inputs[:, :, None, :, None], (batch, height, 2, width, 2, channels))
        return tf.reshape(twice, (batch, 2 * height, 2 * width, channels))


def compile_network(network: tf.keras.Model, experiment: Experiment, steps_per_epoch: int) -> None:
    """Give the network its optimizer and loss."""
    rate: Any = experiment.learning_rate
    if experiment.schedule == "cosine":
        rate = tf.keras.optimizers.schedules.CosineDecay(rate, experiment.epochs * steps_per_epoch)
    network.compile(FusedAdam(rate), LOSSES[experiment.loss])


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
