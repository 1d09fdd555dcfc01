"""What a policy does to samples besides moving them as a whole: smooth deformation, and how scanners differ.

A touch takes images (S, S, C) float32, one mask (S, S) uint8 and the sample's own generator, and returns both. The
channels are neighbouring slices of one scan: whatever changes the scan changes all of them alike; only noise differs.
"""

from collections.abc import Callable

import cv2
import numpy as np

Touch = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]

# Of the window's width, at both ends: what `scanner` must see of the values that the window cuts off. Bone made 0.6
# times as bright then stays as bright as the window goes, as it would in a scan of that scanner.
MARGIN = 0.7
# The deformation is random at so many points across the slice, and smooth between them.
_POINTS = 5
_LEFT_TWICE = 0.1  # of the samples: more costs liver on scans where nothing else is to be seen (experiments/LOG.md)
_ERASED = 0.3  # of the samples
_THIN = 0.3  # of the samples
_DISPLACEMENT = 0.015  # standard deviation, in sides of the slice: 6 mm of 400


def elastic(images: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Deform smoothly by a few millimetres, half of the time: breathing, posture, another body."""
    if rng.random() >= 0.5:
        return images, mask
    height, width = mask.shape
    coarse = rng.normal(0, _DISPLACEMENT, (2, _POINTS, _POINTS)).astype(np.float32)
    across, down = (cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in coarse)
    across = across * np.float32(width) + np.arange(width, dtype=np.float32)
    down = down * np.float32(height) + np.arange(height, dtype=np.float32)[:, np.newaxis]

    def moved(plane: np.ndarray, interpolation: int) -> np.ndarray:
        return cv2.remap(plane, across, down, interpolation, borderMode=cv2.BORDER_REPLICATE)

    return _planewise(images, lambda plane: moved(plane, cv2.INTER_LINEAR)), moved(mask, cv2.INTER_NEAREST)


def left_twice(images: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Show the patient's left half on both sides, once in ten times: spleen, bowel, muscle where the liver would be.

    Who has only seen slices with liver takes whatever lies on the right for liver, down to the pelvis
    (experiments/LOG.md). Columns run from the patient's left to the right; labels follow.
    """
    if rng.random() >= _LEFT_TWICE:
        return images, mask
    middle = mask.shape[1] // 2 + int(rng.integers(-mask.shape[1] // 20, mask.shape[1] // 20 + 1))
    # Beyond the mirror image of the left edge there is what the edge shows: air, as a rule.
    source = np.abs(np.arange(mask.shape[1]) - middle + 0.5).astype(np.intp)  # distance from the middle, in pixels
    columns = np.maximum(middle - 1 - source, 0)
    return np.ascontiguousarray(images[:, columns]), np.ascontiguousarray(mask[:, columns])


def erase(images: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Put a box of one grey value into the slice, three times in ten; what it covers is no liver (Zhong et al. 2020).

    Sides of 0.1 to 0.35 of the slice. The rest of the liver has to be known without what was covered, and the box
    lies where liver is expected without being it. What it is worth elsewhere: experiments/LOG.md.
    """
    if rng.random() >= _ERASED:
        return images, mask
    box = []
    for side in mask.shape:
        length, middle = rng.uniform(0.1, 0.35) * side, rng.uniform(0, side)
        box.append(slice(max(0, round(middle - length / 2)), round(middle + length / 2)))
    images, mask = images.copy(), mask.copy()
    images[tuple(box)], mask[tuple(box)] = np.float32(rng.random()), 0
    return images, mask


def thin(images: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Show the slice itself in place of its neighbours, three times in ten: so thin are the slices of other scans."""
    if images.shape[-1] == 1 or rng.random() >= _THIN:
        return images, mask
    middle = images.shape[-1] // 2
    return np.repeat(images[..., middle : middle + 1], images.shape[-1], axis=-1), mask


def scanner(images: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Change grey values as scanners, kernels, doses and contrast phases do; the mask stays.

    Noise, blur, brightness, contrast, low resolution, gamma: the kinds and the order of nnU-Net (Isensee et al. 2021,
    supplement 4), but more of each and more often: on scans from elsewhere it is what counts most (experiments/LOG.md).
    Values beyond [0, 1], of the window's margin, are taken into account and cut off, as the network never sees them.
    """
    if rng.random() < 0.45:
        images = images + rng.uniform(0.01, 0.08) * rng.standard_normal(images.shape, np.float32)
    if rng.random() < 0.3:
        sigma = rng.uniform(0.5, 1.0) * max(1.0, mask.shape[0] / 128)
        images = _planewise(images, lambda plane: cv2.GaussianBlur(plane, (0, 0), sigma))
    if rng.random() < 0.45:  # the window's lower end stays: contrast medium brightens organs, and not fat
        images = images * np.float32(rng.uniform(0.6, 1.4))
    if rng.random() < 0.45:
        middle = np.mean(images, where=images > 0) if (images > 0).any() else np.float32(0)  # of the body, without air
        images = (images - middle) * np.float32(rng.uniform(0.6, 1.4)) + middle
    if rng.random() < 0.3:
        fraction = rng.uniform(0.5, 1)
        images = _planewise(images, lambda plane: _coarse(plane, fraction))
    images = np.clip(images, 0, 1, dtype=np.float32)
    if rng.random() < 0.45:
        images = images ** np.float32(rng.uniform(0.7, 1.5))
    return images, mask


def _coarse(plane: np.ndarray, fraction: float) -> np.ndarray:
    """Return the plane as if it had been taken with so many pixels along each side."""
    fewer = [max(1, round(side * fraction)) for side in plane.shape[::-1]]
    return cv2.resize(cv2.resize(plane, fewer, interpolation=cv2.INTER_AREA), plane.shape[::-1])


def _planewise(images: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a function of planes to each channel: OpenCV takes no more than four at a time for all that is needed."""
    return np.stack([change(np.ascontiguousarray(images[..., n])) for n in range(images.shape[-1])], axis=-1)
