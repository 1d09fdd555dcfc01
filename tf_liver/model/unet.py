"""The network: segmentation_models' Unet with a float32 head that gives logits."""

import contextlib
import functools
import io
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_liver.experiment import Experiment, ExperimentError
from tf_liver.model.batch_norm import BatchNormalization
from tf_liver.model.dropout import Dropout
from tf_liver.model.losses import LOSSES
from tf_liver.model.optimizer import make_optimizer
from tf_liver.model.precision import choose_policy
from tf_liver.model.pretrained import COLOURS, NONE, encoder_weights, with_colours
from tf_liver.model.regions import channels_of
from tf_liver.model.weights import DAMAGE, check_weights

with contextlib.redirect_stdout(io.StringIO()):  # it announces its framework on import
    import segmentation_models


def build_network(experiment: Experiment, fresh: bool = True, offline: bool = False) -> tf.keras.Model:
    """Return the untrained network under the experiment's precision policy.

    network(images): (B, H, W, 2n + 1) in the compute type, the slice in the middle and n neighbours on each side
    → logits (B, H, W, C) float32; H and W multiples of 32. C: see regions.py.

    The library's own head computes in float16 under mixed precision; ours is a float32 convolution in its place.

    fresh: give the encoder the weights that the experiment begins with; not needed where trained ones will follow.
    offline: never ask the network for them.

    Raises:
        ExperimentError: a backbone that segmentation_models does not have, or weights that are not to be had.
    """
    backbones = segmentation_models.get_available_backbone_names()
    if experiment.backbone not in backbones:
        raise ExperimentError(
            f"backbone: must be one of {', '.join(sorted(backbones))}. Received: {experiment.backbone!r}"
        )
    tf.keras.mixed_precision.set_global_policy(choose_policy(experiment.precision))
    pretrained = experiment.encoder_weights != NONE
    channels = COLOURS if pretrained else 2 * experiment.neighbours + 1
    with encoder_weights(experiment, offline) if pretrained and fresh else contextlib.nullcontext() as weights:
        unet = segmentation_models.Unet(
            experiment.backbone, input_shape=(None, None, channels), activation="linear", encoder_weights=weights
        )
    theirs = tf.keras.Model(unet.input, unet.get_layer("final_conv").input)
    ours = functools.partial(_ours, experiment=experiment)
    if pretrained:
        body = with_colours(theirs, experiment, ours)
    else:
        body = tf.keras.models.clone_model(theirs, clone_function=ours)
    for layer in theirs.layers[1:] if weights else ():
        body.get_layer(layer.name).set_weights(layer.get_weights())
    features = body.output
    if experiment.decoder_dropout:
        # Whole channels: neighbouring pixels of one say the same. Here, and not between the decoder's blocks, the
        # library's graph stays as it is, and no batch normalisation meets other statistics than in inference.
        features = Dropout(experiment.decoder_dropout, (None, 1, 1, None), name="decoder_dropout")(features)
    logits = tf.keras.layers.Conv2D(
        channels_of(experiment),
        3,
        padding="same",
        kernel_initializer="glorot_uniform",
        dtype="float32",
        name="logits",
    )(features)
    return tf.keras.Model(body.input, logits, name=experiment.name)


def _ours(layer: tf.keras.layers.Layer, experiment: Experiment) -> tf.keras.layers.Layer:
    """Return a fresh layer in the place of one of the library's."""
    config = layer.get_config()
    if isinstance(layer, tf.keras.layers.UpSampling2D):
        return Repeat2D(name=layer.name)
    if isinstance(layer, tf.keras.layers.Dropout):  # of some backbones
        return Dropout(layer.rate, layer.noise_shape, name=layer.name)
    if isinstance(layer, tf.keras.layers.BatchNormalization):
        config["momentum"] = experiment.batch_norm_momentum
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return BatchNormalization.from_config(config)
    if _pads_for(layer):
        return tf.keras.layers.Identity(name=layer.name)
    if isinstance(layer, tf.keras.layers.Conv2D) and _pads_for(layer.inbound_nodes[0].inbound_layers):
        config["padding"] = "same"
    return type(layer).from_config(config)


def _pads_for(layer: Any) -> bool:
    """Return whether a layer only adds the border of zeros that the convolutions after it can add themselves.

    That saves a copy forward and one back: 8 % of a training step (benchmarks/README.md). Strided ones cannot: "same"
    then means a border on one side.
    """
    if not isinstance(layer, tf.keras.layers.ZeroPadding2D) or layer.padding != ((1, 1), (1, 1)):
        return False
    after = [node.outbound_layer for node in layer.outbound_nodes]
    return all(
        isinstance(conv, tf.keras.layers.Conv2D) and (conv.kernel_size, conv.strides) == ((3, 3), (1, 1))
        for conv in after
    )


class Repeat2D(tf.keras.layers.Layer):
    """Every pixel twice in both directions, bit for bit what UpSampling2D(2) gives.

    That one is a nearest-neighbour resize, for whose gradient XLA has no kernel (tensorflow issue 57575).
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """(B, H, W, C) → (B, 2H, 2W, C)."""
        return _repeat(inputs)


@tf.custom_gradient
def _repeat(inputs: tf.Tensor) -> Any:
    batch, height, width = tf.unstack(tf.shape(inputs)[:3])
    channels = inputs.shape[-1]
    twice = tf.broadcast_to(inputs[:, :, None, :, None], (batch, height, 2, width, 2, channels))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        """The sum over each pixel's four copies, as oneDNN's pooling: TensorFlow's own sum took 5 % of a step."""
        return 4 * tf.nn.avg_pool2d(upstream, 2, 2, "VALID")

    return tf.reshape(twice, (batch, 2 * height, 2 * width, channels)), gradient


def compile_network(network: tf.keras.Model, experiment: Experiment, steps_per_epoch: int, seed: int = 0) -> None:
    """Give the network its optimizer and loss, and dropout its seed."""
    network.compile(make_optimizer(experiment, steps_per_epoch), LOSSES[experiment.loss])
    for layer in network.layers:
        if isinstance(layer, Dropout):
            layer.begin(seed, network.optimizer)


def load_network(experiment: Experiment, weights: str) -> tf.keras.Model:
    """Return the network with trained weights: built in code, so nothing in the file is ever executed.

    Raises:
        ValueError: a file that does not hold this network's weights; the message names it.
    """
    network = build_network(experiment, fresh=False)
    check_weights(Path(weights), network)
    try:
        network.load_weights(weights)
    except DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{weights}: does not hold the weights of {experiment.name}: {reason}") from error
    return network
