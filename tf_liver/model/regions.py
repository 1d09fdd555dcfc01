"""Regions: what the network's channels mean. Region 0 is the liver with its tumours, region 1 the tumours.

channels    head
1           a sigmoid: liver
2           two sigmoids, each region for itself (nested regions: Myronenko 2018, arXiv:1810.11654)
3           a softmax of background, liver, tumour
"""

import tensorflow as tf

from tf_liver.data import REGIONS
from tf_liver.experiment import Experiment

CLASSES = 3


def channels_of(experiment: Experiment) -> int:
    """Return how many channels the network's logits have."""
    if experiment.task == "tumour" and experiment.tumour_head == "classes":
        return CLASSES
    return len(REGIONS[experiment.task])


def region_probability(logits: tf.Tensor) -> tf.Tensor:
    """Return the probability of each region: logits (…, C) float32 → (…, 1), or (…, 2) where C is 2 or 3."""
    if logits.shape[-1] != CLASSES:
        return tf.sigmoid(logits)
    classes = tf.nn.softmax(logits)
    # Their sum and not 1 − background, which would lose the small ones to rounding.
    return tf.stack([classes[..., 1] + classes[..., 2], classes[..., 2]], axis=-1)


def region_masks(labels: tf.Tensor, regions: int) -> tf.Tensor:
    """Return the mask of each region, 0 or 1: labels (…, 1) 0, 1, 2 → (…, regions) float32.

    With one region labels are its mask already, 0 and 1.
    """
    if regions == 1:
        return tf.cast(labels, tf.float32)
    return tf.cast(tf.concat([labels > n for n in range(regions)], axis=-1), tf.float32)
