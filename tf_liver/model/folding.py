"""The network as it runs when nothing is learnt: batch normalisation folded into convolutions, weights in one type."""

import numpy as np
import tensorflow as tf

layers = tf.keras.layers


def folded(network: tf.keras.Model, compute_type: str) -> tf.keras.Model:
    """Return a copy of a trained network that does the same with less work.

    A batch normalisation right behind a convolution scales and shifts its output, so it becomes part of kernel and bias:
    w' = w·γ/√(σ²+ε), b' = (b−μ)·γ/√(σ²+ε) + β. Others stay. Weights are stored in the type that is computed in, so
    none is converted for each batch. The image stays float32 until its first convolution and activation are done:
    bfloat16's eight bits would round a window of 350 HU to 1.4 HU (which costs 5 % of the time, and brings the masks
    a third closer to those of float32).

    network: a functional model. compute_type: "float32", "bfloat16" or "float16"; so is what the copy returns.
    """
    exact = _image_layers(network)
    behind = {conv.name: after for conv in network.layers if (after := _normalisation_behind(conv))}
    gone = {after.name for after in behind.values()}

    def copied(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
        kind = "float32" if layer.name in exact else compute_type
        if layer.name in gone:
            return layers.Activation("linear", name=layer.name, dtype=kind)
        config = {**layer.get_config(), "dtype": kind}
        # What is overwritten in a moment need not be drawn at random.
        config |= {key: "zeros" for key in config if key.endswith("_initializer")}
        return type(layer).from_config(config | ({"use_bias": True} if layer.name in behind else {}))

    lean = tf.keras.models.clone_model(network, clone_function=copied)
    for layer in network.layers:
        if layer.name in behind:
            lean.get_layer(layer.name).set_weights(_folded_weights(layer, behind[layer.name]))
        elif layer.name not in gone and layer.weights:
            lean.get_layer(layer.name).set_weights(layer.get_weights())
    return lean


def _image_layers(network: tf.keras.Model) -> set[str]:
    """Return the names of the layers up to the first convolution, and of what does nothing but shape its output."""
    first = next(i for i, layer in enumerate(network.layers) if isinstance(layer, layers.Conv2D))
    names, layer = {layer.name for layer in network.layers[: first + 1]}, network.layers[first]
    while len(layer.outbound_nodes) == 1:
        layer = layer.outbound_nodes[0].outbound_layer
        if not isinstance(layer, layers.BatchNormalization | layers.Activation):
            break
        names.add(layer.name)
    return names


def _normalisation_behind(layer: tf.keras.layers.Layer) -> tf.keras.layers.BatchNormalization | None:
    """Return the batch normalisation that alone uses the output of a plain convolution, or None."""
    plain = type(layer) is layers.Conv2D and layer.activation is tf.keras.activations.linear
    after = [node.outbound_layer for node in layer.outbound_nodes]
    if plain and len(after) == 1 and type(after[0]) is layers.BatchNormalization:
        return after[0]
    return None


def _folded_weights(conv: tf.keras.layers.Conv2D, norm: tf.keras.layers.BatchNormalization) -> list[np.ndarray]:
    """Return kernel (h, w, in, out) and bias (out,) of the convolution with the normalisation in it."""
    factor = 1 / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    if norm.scale:
        factor *= norm.gamma.numpy()
    bias = -norm.moving_mean.numpy() + (conv.bias.numpy() if conv.use_bias else 0)
    return [conv.kernel.numpy() * factor, bias * factor + (norm.beta.numpy() if norm.center else 0)]
