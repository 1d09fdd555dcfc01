"""Augmentation policies, written in albumentations; the only file that imports it."""

import random
import threading
from collections.abc import Callable

import albumentations as A
import cv2
import numpy as np

from tf_liver.data.slices import SIZE_MULTIPLE

# tf.data brings the threads; OpenCV's own would fight them for the same cores.
cv2.setNumThreads(0)


def resize() -> list[A.BasicTransform]:
    """No change but the size: validation."""
    return []


def rotate() -> list[A.BasicTransform]:
    """Small rotations, no mirroring: the liver stays on the patient's right."""
    return [A.Rotate(limit=(-15, 15), p=0.5)]


def flip_rotate() -> list[A.BasicTransform]:
    """Small rotations, left-right and front-back flips: the specification's policy.

    A CT is not mirror-symmetric: a left-sided liver is situs inversus, about 1 in 10,000 people. Flips are
    here because the specification asks for them, and because the texture and edges that tell liver from
    spleen do not depend on the side: a flipped slice is a wrong anatomy but a right texture, and with few
    patients more of those has helped. `rotate` is the same policy without them.
    """
    return [*rotate(), A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]


POLICIES: dict[str, Callable[[], list[A.BasicTransform]]] = {
    "resize": resize,
    "rotate": rotate,
    "flip_rotate": flip_rotate,
}


class Augmenter:
    """A policy at one size; the same seed gives the same sample, from any thread and in any order."""

    def __init__(self, policy: str, image_size: int) -> None:
        self._policy = policy
        self._image_size = image_size
        # A Compose holds its own random generators, so each thread needs one of its own.
        self._local = threading.local()

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Augment one normalised slice and its mask.

        image: (H, W) float32. mask: (H, W) uint8. Returns (S, S) float32 and (S, S) uint8, or for the native
        size both padded below and at the right to a multiple of 32.
        """
        if not hasattr(self._local, "compose"):
            self._local.compose = self._build()
        # Not set_random_seed: albumentations 2.0.8 would give every transform the same seed, so that both
        # flips and the rotation would always happen together or not at all.
        self._local.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        sample = self._local.compose(image=image, mask=mask)
        return sample["image"], sample["mask"]

    def _build(self) -> A.Compose:
        steps = POLICIES[self._policy]()
        if self._image_size:
            # INTER_NEAREST samples the mask half a pixel off the image's grid; _EXACT does not.
            size = A.Resize(
                self._image_size,
                self._image_size,
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST_EXACT,
            )
            return A.Compose([size, *steps])
        pad = A.PadIfNeeded(
            min_height=None,
            min_width=None,
            pad_height_divisor=SIZE_MULTIPLE,
            pad_width_divisor=SIZE_MULTIPLE,
            position="top_left",
        )
        return A.Compose([*steps, pad])
