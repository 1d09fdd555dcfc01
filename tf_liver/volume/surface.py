"""How far apart two surfaces are, in millimetres. NumPy, SciPy and scikit-image's marching cubes.

Two definitions are in use, and each score keeps that of the challenge which made it known:

surface elements   google-deepmind/surface-distance, which the Decathlon scores with: an element for every 2 × 2 × 2
                   neighbourhood that is neither all inside nor all outside, at the corner the eight voxels share, of
                   the area that marching cubes give it. For NSD and HD95.
border voxels      LiTS (and SLIVER07, Heimann 2009): the centres of the voxels of the mask that touch its outside by
                   a face or an edge, each of one weight. For ASSD, RMSD and the maximum. MONAI and medpy leave the
                   edges out (connectivity 1): thinner borders, and other means of the same distances.

Outside the scan is outside the mask. Distances go to the nearest element of the other surface, and there are none
where a mask is empty: then NSD is 0, or 1 if both are, and all that is in mm is NaN.
"""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.measure import marching_cubes

# Sums of rounded numbers may pass a bound that they equal: a nanometre, and a billionth of a surface, of slack.
ROUNDING_MM = 1e-6
ROUNDING_SHARE = 1e-9
# More than so many cells so far from the other surface are left to a distance transform, which takes 56 bytes a voxel:
# in a box of no more voxels than these.
FAR_MM, MANY, BOX_VOXELS = 20.0, 20_000, 40_000_000


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance of every element of one surface to the other one (mm), and the elements' weights (mm², or 1)."""

    of_reference: np.ndarray
    of_prediction: np.ndarray
    reference_weights: np.ndarray
    prediction_weights: np.ndarray

    @property
    def exist(self) -> bool:
        """Say whether both surfaces are there."""
        return bool(len(self.of_reference) and len(self.of_prediction))


def element_distances(reference: np.ndarray, prediction: np.ndarray, step_mm: np.ndarray) -> SurfaceDistances:
    """Return the distances between the surface elements of two masks.

    reference, prediction: (W, H, D) boolean. step_mm: (3, 3), column by column the way from a voxel to its
    neighbour along each axis, as in an affine; np.diag(spacing_mm) where the axes are perpendicular.
    """
    areas = element_areas(step_mm)
    (a, codes_a), (b, codes_b) = (_elements(mask) for mask in (reference, prediction))
    return _distances(a, b, areas[codes_a], areas[codes_b], step_mm)


def border_distances(
    reference: np.ndarray, prediction: np.ndarray, step_mm: np.ndarray, connectivity: int = 2
) -> SurfaceDistances:
    """Return the distances between the border voxels of two masks; arguments as `element_distances`.

    connectivity: 2 as LiTS, 1 as MONAI and medpy.
    """
    a, b = (np.argwhere(border(mask, connectivity)) for mask in (reference, prediction))
    return _distances(a, b, np.ones(len(a)), np.ones(len(b)), step_mm)


def nsd(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Share of both surfaces that lies within a tolerance of the other one: normalised surface Dice (Nikolov 2018).

    One mask empty: 0; both: 1.
    """
    total = distances.reference_weights.sum() + distances.prediction_weights.sum()
    near = (
        distances.reference_weights[distances.of_reference <= tolerance_mm + ROUNDING_MM].sum()
        + distances.prediction_weights[distances.of_prediction <= tolerance_mm + ROUNDING_MM].sum()
    )
    return float(near / total) if total else 1.0


def hausdorff(distances: SurfaceDistances, percent: float = 100) -> float:
    """Larger of the two surfaces' percentiles of distance (mm); 95 is HD95, 100 the maximum surface distance.

    The percentile is the smallest distance within which that share of the surface's weight lies, as
    compute_robust_hausdorff of google-deepmind/surface-distance has it; MONAI interpolates between two distances, and
    medpy takes one percentile of both surfaces together. NaN if a mask is empty.
    """
    if not distances.exist:
        return float("nan")
    sides = (
        (distances.of_reference, distances.reference_weights),
        (distances.of_prediction, distances.prediction_weights),
    )
    return max(_percentile(values, weights, percent) for values, weights in sides)


def assd(distances: SurfaceDistances) -> float:
    """Mean distance over both surfaces together (mm), ASSD of LiTS (Bilic 2023); NaN if a mask is empty."""
    return _mean(distances, 1)


def rmsd(distances: SurfaceDistances) -> float:
    """Root of the mean squared distance over both surfaces together (mm), as LiTS; NaN if a mask is empty."""
    return _mean(distances, 2) ** 0.5


def _mean(distances: SurfaceDistances, power: int) -> float:
    """Return the weighted mean of the distances' power."""
    if not distances.exist:
        return float("nan")
    sums = distances.reference_weights @ distances.of_reference**power
    sums += distances.prediction_weights @ distances.of_prediction**power
    return float(sums / (distances.reference_weights.sum() + distances.prediction_weights.sum()))


def _percentile(values: np.ndarray, weights: np.ndarray, percent: float) -> float:
    order = np.argsort(values)
    shares = np.cumsum(weights[order]) / weights.sum()
    within = int(np.searchsorted(shares, percent / 100 - ROUNDING_SHARE))
    return float(values[order][min(within, len(values) - 1)])


def border(mask: np.ndarray, connectivity: int = 2) -> np.ndarray:
    """Return the voxels of a (W, H, D) mask that touch its outside by a face or edge (2), or by a face (1)."""
    inside = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, connectivity))
    return mask & ~inside


def element_areas(step_mm: np.ndarray) -> np.ndarray:
    """Return the area (mm²) of the surface in a cell of eight voxels, by code: (256,) float64.

    Bit n of a code says whether corner n, in the order of np.ndindex(2, 2, 2), is inside. An area vector turns with
    the cofactors of the axes.
    """
    cofactors = np.linalg.det(step_mm) * np.linalg.inv(step_mm).T
    return np.array([np.linalg.norm(normals @ cofactors.T, axis=1).sum() for normals in _cell_normals()])


@functools.cache
def _cell_normals() -> list[np.ndarray]:
    """Return, by code, the area vectors (n, 3) of the triangles in a cell of unit voxels.

    Lorensen and Cline 1987: a cell and its complement hold the same surface. scikit-image's table departs from that
    where more than four corners are inside, so those take their complement.
    """
    normals = []
    for code in range(256):
        corners = code if code.bit_count() <= 4 else 255 - code
        if not corners:
            normals.append(np.zeros((0, 3)))
            continue
        cell = np.array([corners >> n & 1 for n in range(8)], np.float32).reshape(2, 2, 2)
        points, faces, _, _ = marching_cubes(cell, 0.5, method="lorensen")
        triangles = points[faces].astype(np.float64)
        normals.append(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]) / 2)
    return normals


def _elements(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cells that the surface passes through: their indices (n, 3) and codes (n,)."""
    padded = np.pad(mask, 1).view(np.uint8)
    width, height, depth = (n + 1 for n in mask.shape)
    codes = np.zeros((width, height, depth), np.uint8)
    for bit, (i, j, k) in enumerate(np.ndindex(2, 2, 2)):
        codes |= padded[i : i + width, j : j + height, k : k + depth] << np.uint8(bit)
    cells = np.argwhere((codes > 0) & (codes < 255))
    return cells, codes[tuple(cells.T)]


def _distances(
    a: np.ndarray, b: np.ndarray, weights_a: np.ndarray, weights_b: np.ndarray, step_mm: np.ndarray
) -> SurfaceDistances:
    """Return the distances between two sets of (n, 3) indices; to an empty set they are infinite."""
    return SurfaceDistances(_nearest(a, b, step_mm), _nearest(b, a, step_mm), weights_a, weights_b)


def _nearest(cells: np.ndarray, others: np.ndarray, step_mm: np.ndarray) -> np.ndarray:
    """Return the distance (mm) of each cell to the nearest of the others, (n, 3) indices each.

    A tree over the few surface cells is some times faster than a distance transform of the whole box, and it does not
    ask for perpendicular axes; but many cells far from all others (a whole scan called liver) would take it minutes.
    """
    if not len(others):
        return np.full(len(cells), np.inf)
    tree = KDTree(others @ step_mm.T, leafsize=32, balanced_tree=False, compact_nodes=False)
    points = cells @ step_mm.T
    distances, _ = tree.query(points, distance_upper_bound=FAR_MM)
    far = np.isinf(distances)
    products = step_mm.T @ step_mm
    perpendicular = np.allclose(products, np.diag(np.diag(products)), rtol=0, atol=1e-6)
    if far.sum() > MANY and perpendicular and np.prod(np.ptp(np.vstack([cells, others]), axis=0) + 1) <= BOX_VOXELS:
        distances[far] = _transformed(cells[far], others, np.sqrt(np.diag(products)))
    elif far.any():
        distances[far], _ = tree.query(points[far])
    return distances


def _transformed(cells: np.ndarray, others: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Return what `_nearest` does, by a distance transform of the box around all cells."""
    lowest = np.minimum(cells.min(axis=0), others.min(axis=0))
    highest = np.maximum(cells.max(axis=0), others.max(axis=0))
    elsewhere = np.ones(highest - lowest + 1, bool)
    elsewhere[tuple((others - lowest).T)] = False
    return ndimage.distance_transform_edt(elsewhere, sampling=spacing_mm)[tuple((cells - lowest).T)]
