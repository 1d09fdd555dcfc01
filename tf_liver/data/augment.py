"""Augmentation policies, written in albumentations; the only file that imports it."""

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import albumentations as A
import cv2
import numpy as np

from tf_liver.data.slices import SIZE_MULTIPLE, clip_hu, normalise, scale, target
from tf_liver.data.touches import MARGIN, Touch, elastic, erase, left_twice, scanner, thin
from tf_liver.experiment import Experiment, replace

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


def affine() -> list[A.BasicTransform]:
    """Rotation, scale and shift, no mirroring: patients and fields of view differ in size and place.

    Before that, width by itself: the resize squeezes slices that are not square.
    """
    squeeze = A.Affine(scale={"x": (0.75, 1.35), "y": (1.0, 1.0)}, p=0.8)
    return [
        squeeze,
        A.Affine(scale=(0.7, 1.4), keep_ratio=True, translate_percent=(-0.1, 0.1), rotate=(-20, 20), p=0.8),
    ]


@dataclass(frozen=True)
class Policy:
    """What may happen to a sample: what is one matrix, in albumentations' terms, and then what is none."""

    moves: Callable[[], list[A.BasicTransform]]
    touches: tuple[Touch, ...] = ()

    @property
    def margin(self) -> float:
        """How far beyond the window's ends, in its widths, a sample's values must reach until the touches are done."""
        return MARGIN if scanner in self.touches else 0.0


POLICIES = {
    "resize": Policy(resize),
    "rotate": Policy(rotate),
    "flip_rotate": Policy(flip_rotate),
    "affine": Policy(affine),
    "flip_rotate_intensity": Policy(flip_rotate, (scanner,)),
    "affine_intensity": Policy(affine, (scanner,)),
    "affine_intensity_elastic": Policy(affine, (elastic, scanner)),
    "few_patients": Policy(affine, (thin, left_twice, scanner, erase)),
}


def _step_matrix(step: A.BasicTransform, size: dict[str, Any]) -> np.ndarray:
    """Return the 3 × 3 matrix of one geometric transform, with its parameters drawn from its random state."""
    height, width = size["shape"]
    if isinstance(step, A.HorizontalFlip):
        return np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]])
    if isinstance(step, A.VerticalFlip):
        return np.array([[1, 0, 0], [0, -1, height - 1], [0, 0, 1]])
    parameters = {**size, **step.get_params()}
    return step.get_params_dependent_on_data(parameters, {})["matrix"]


class Augmenter:
    """A policy at one size; the same seed gives the same sample, from any thread and in any order.

    margin: how far the window of the slices that come reaches beyond the experiment's, as `Policy.margin`.
    """

    def __init__(self, policy: str, image_size: int, margin: float = 0.0) -> None:
        self._policy = POLICIES[policy]
        self._image_size = image_size
        self._margin = margin
        # A Compose holds its own random generators, so each thread needs one of its own.
        self._local = threading.local()

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Augment one normalised slice, or several that are its channels, and its mask.

        image: (H, W) or (H, W, C) float32. mask: (H, W) uint8. Returns (S, S) or (S, S, C) float32 and (S, S) uint8,
        or for the native size both padded below and at the right to a multiple of 32.
        """
        sample = self._seeded(seed)(image=image.reshape(*mask.shape, -1), mask=mask)
        moved, mask = self.touch(sample["image"], sample["mask"], seed)
        return moved.reshape(*mask.shape, *image.shape[2:]), mask

    def touch(self, images: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Do what follows the moves to a sample at its final size: images (S, S, C), mask (S, S)."""
        if self._margin:
            images = images * np.float32(1 + 2 * self._margin) - np.float32(self._margin)
        if self._policy.touches:
            rng = np.random.default_rng((seed, 1))
            for touch in self._policy.touches:
                images, mask = touch(images, mask, rng)
        return images, mask

    def matrix(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        """Return what `__call__` does to pixel positions as one matrix: (2, 3), slice (x, y) → sample (x, y)."""
        compose = self._seeded(seed)
        compose.py_random.random()  # the draw by which a Compose decides to run at all
        resize, *steps = compose.transforms
        height, width = shape
        size = {"shape": (resize.height, resize.width)}
        down, across = resize.height / height, resize.width / width
        # Pixel centres lie at half positions: x' + ½ = (x + ½) · scale.
        total = np.array([[across, 0, across / 2 - 0.5], [0, down, down / 2 - 0.5], [0, 0, 1]])
        for step in steps:
            if step.should_apply():
                total = _step_matrix(step, size) @ total
        return total[:2]

    def _seeded(self, seed: int) -> A.Compose:
        """Return this thread's Compose, about to draw what belongs to the seed."""
        if not hasattr(self._local, "compose"):
            self._local.compose = self._build()
        # Not set_random_seed: albumentations 2.0.8 would give every transform the same seed, so that both
        # flips and the rotation would always happen together or not at all.
        self._local.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return self._local.compose

    def _build(self) -> A.Compose:
        steps = self._policy.moves()
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


def widened(experiment: Experiment, policy: str) -> tuple[Experiment, float]:
    """Return the experiment with the window that a policy must see, and its margin, as `Policy.margin`."""
    margin = POLICIES[policy].margin
    if not margin or experiment.normalisation != "window":
        return experiment, 0.0
    low, high = experiment.window_hu
    beyond = margin * (high - low)
    return replace(experiment, window_hu=(low - beyond, high + beyond)), margin


class WarpAugmenter:
    """The same policies as one warp a slice: resize and all geometry in a single matrix, on clipped int16 HU.

    Draws what `Augmenter` draws for the same seed, in the same order, so a sample shows the same patch of the
    patient. It is interpolated once instead of once a transform: without rotation and scale pixels agree to rounding,
    with rotation within 0.05 on average, with scales too within 0.08, mostly noise that the plain form blurs by
    interpolating three times (a test holds all). What is no matrix follows, the same for both.
    """

    def __init__(self, experiment: Experiment, policy: str | None = None) -> None:
        self._arguments = (experiment, policy)
        self.neighbours = experiment.neighbours
        policy = policy or experiment.augmentation
        self._experiment, margin = widened(experiment, policy)
        self._size = experiment.image_size
        self._plain = Augmenter(policy, experiment.image_size, margin)
        self._touched = bool(POLICIES[policy].touches)
        self._local = threading.local()
        # int16 pixels cannot be clipped at half a HU.
        self._whole = all(end.is_integer() and abs(end) < 2**15 for end in self._experiment.window_hu)

    def batch(
        self,
        samples: Iterable[tuple[np.ndarray, np.ndarray, int]],
        number: int,
        out: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normalise and augment `number` samples of (slice in HU with its neighbours, label map, seed).

        Each slice, (2n + 1, H, W) for n neighbours on each side, is used before the next one is asked for. Neighbours
        become channels, normalised and moved alike. Returns images (B, S, S, 2n + 1) float32 and masks
        (B, S, S, 1) uint8, as `target` makes them, written to `out` if it is given; at the native size new ones, padded
        to the largest.
        """
        if not self._size:
            return _padded([self._at_native_size(*sample) for sample in samples], 2 * self.neighbours + 1)
        shape, channels = (number, self._size, self._size), 2 * self.neighbours + 1
        images, masks = out or (np.empty((*shape, channels), np.float32), np.empty((*shape, 1), np.uint8))
        peaks = np.empty((number, 1, 1, channels), np.float32)
        seeds = []
        for n, (slices, label, seed) in enumerate(samples):
            seeds.append(seed)
            matrix = self._plain.matrix(label.shape, seed)
            for channel, image in enumerate(slices):
                peaks[n, ..., channel] = self._warp(image, matrix, images[n, ..., channel])
            cv2.warpAffine(label, matrix, shape[1:], dst=masks[n, ..., 0], flags=cv2.INTER_NEAREST)
        scale(images, peaks, self._experiment, out=images)
        if self._experiment.task == "liver":
            np.greater(masks, 0, out=masks.view(bool))  # `target`, in place
        for n, seed in enumerate(seeds if self._touched else ()):
            images[n], masks[n, ..., 0] = self._plain.touch(images[n], masks[n, ..., 0], seed)
        return images, masks

    def __reduce__(self) -> tuple[Any, ...]:
        return WarpAugmenter, self._arguments

    def _at_native_size(self, slices: np.ndarray, label: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        images = np.ascontiguousarray(np.moveaxis(normalise(slices, self._experiment), 0, -1))
        return self._plain(images, target(label, self._experiment), seed)

    def _warp(self, image: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> np.floating:
        """Clip one slice and warp it into its place in a batch; return its maximum."""
        size = (self._size, self._size)
        # OpenCV warps float32 about three times as fast as int16, the conversion included.
        values = self._buffer("values", image.shape, np.dtype(np.float32))
        if self._whole:
            clipped = clip_hu(image, self._experiment, out=self._buffer("clipped", image.shape, image.dtype))
            np.copyto(values, clipped)
        else:
            np.copyto(values, image)
            clipped = clip_hu(values, self._experiment, out=values)
        low = self._experiment.window_hu[0] if self._experiment.normalisation == "window" else 0.0
        whole = out if out.flags.c_contiguous else self._buffer("warped", size, out.dtype)  # OpenCV writes no stripes
        cv2.warpAffine(values, matrix, size, dst=whole, flags=cv2.INTER_LINEAR, borderValue=low)
        if whole is not out:
            out[:] = whole
        return clipped.max()

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return this thread's array for a purpose: fresh memory for each slice costs more than the work in it."""
        kept = getattr(self._local, name, None)
        if kept is None or kept.shape != shape or kept.dtype != dtype:
            kept = np.empty(shape, dtype)
            setattr(self._local, name, kept)
        return kept


def _padded(samples: list[tuple[np.ndarray, np.ndarray]], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Stack slices of unequal size, perhaps none, padded with background below and at the right."""
    height, width = (max((image.shape[axis] for image, _ in samples), default=SIZE_MULTIPLE) for axis in (0, 1))
    images = np.zeros((len(samples), height, width, channels), np.float32)
    masks = np.zeros((len(samples), height, width, 1), np.uint8)
    for n, (image, mask) in enumerate(samples):
        images[n, : image.shape[0], : image.shape[1]] = image
        masks[n, : image.shape[0], : image.shape[1], 0] = mask
    return images, masks
