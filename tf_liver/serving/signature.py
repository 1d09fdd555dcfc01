"""The model on the server: HU in, probabilities and label maps out, everything between them inside."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_liver.data.slices import THRESHOLD
from tf_liver.model.predictor import AveragedSlices, SlicePredictor
from tf_liver.serving.wire import PNG_OFFSET_HU
from tf_liver.volume.inference import BATCH_SLICES

MAX_SIDE = 2048
# 1,024 slices of 512²: with float32 probabilities and labels the answer stays below protobuf's 2 GiB. Half of them
# where there are probabilities of tumours too.
MAX_VOXELS = 2**28
# Of a batch at native size, whose memory grows with the slices: BATCH_SLICES of 512².
BATCH_PIXELS = BATCH_SLICES * 512**2
# A PNG begins with its signature and a chunk with width, height, bit depth and colour type (www.w3.org/TR/png).
_SIGNATURE, _HEADER, _GREY_16_BIT = b"\x89PNG\r\n\x1a\n", 26, [16, 0]


class ServedModel(tf.Module):
    """A predictor with its signatures, each in batches of BATCH_SLICES, so that any request fits.

    It holds the networks' variables and no Keras object: nothing of Keras is saved, or needed to load.
    native: whether slices keep their size. metadata: JSON text that `describe` answers with.
    """

    def __init__(self, predictor: SlicePredictor | AveragedSlices, native: bool, metadata: str = "{}") -> None:
        super().__init__()
        self._neighbours = predictor.neighbours
        # A network that was never called may have no variables yet. () or, for liver and tumour, (2,):
        self._regions = tuple(predictor(tf.zeros((1 + 2 * self._neighbours, 1, 1))).shape[3:])
        self.weights = list(predictor.variables)
        # A plain function is not tracked, and so not saved with all that the predictor holds.
        self._probability: Callable[[tf.Tensor], tf.Tensor] = lambda image: predictor(image)
        # One copy of the network in the graph where neighbours make no difference.
        self._alone = (lambda image: predictor.alone(image)) if self._neighbours else self._probability
        self._native, self._metadata = native, metadata

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Return what `tf.saved_model.save` takes as signatures."""
        functions: dict[str, tuple[Callable[[tf.Tensor], dict[str, tf.Tensor]], tf.TensorSpec]] = {
            "serving_default": (self.slices, tf.TensorSpec((None, None, None), tf.float32, "image")),
            "serve_int16": (self.slices, tf.TensorSpec((None, None, None), tf.int16, "image")),
            "serve_encoded": (self.encoded, tf.TensorSpec((None,), tf.string, "image_bytes")),
            "volume": (self.volume, tf.TensorSpec((None, None, None), tf.int16, "volume")),
            "describe": (self.describe, tf.TensorSpec((None,), tf.string, "question")),
        }
        return {name: tf.function(f).get_concrete_function(spec) for name, (f, spec) in functions.items()}

    def slices(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return probability (B, H, W) or (B, H, W, 2) float32 and label (B, H, W) uint8 of slices in HU.

        They need not be neighbours, and are not taken for such.
        """
        image = checked(image, MAX_VOXELS // (len(self._regions) + 1))
        probability = self._in_batches(image, lambda probability: probability, tf.float32, self._regions)
        return {"probability": probability, "label": label_of(probability)}

    def volume(self, volume: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the label map (Z, H, W) uint8 of a whole scan in HU; only labels are kept of each batch."""
        whole = checked(volume, MAX_VOXELS)
        return {"label": self._in_batches(whole, label_of, tf.uint8, neighbours=self._neighbours)}

    def encoded(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return label maps as 8-bit PNGs, each of its image's size: images of many sizes may come together."""
        image_bytes, alike = checked_pngs(image_bytes)
        step = tf.where(alike, BATCH_SLICES, 1)
        parts = tf.TensorArray(tf.string, 0, dynamic_size=True, infer_shape=False, element_shape=(None,))
        for first in tf.range(0, tf.size(image_bytes), step):
            png = image_bytes[first : first + step]
            image = tf.map_fn(decode, png, fn_output_signature=tf.TensorSpec((None, None), tf.float32))
            label = label_of(self._alone(image))[..., tf.newaxis]
            parts = parts.write(first // step, tf.map_fn(tf.io.encode_png, label, fn_output_signature=tf.string))
        return {"label_bytes": parts.concat()}

    def describe(self, question: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the metadata once for each question: TF Serving has no other way to hand them to a client."""
        return {"metadata": tf.fill(tf.shape(question), self._metadata)}

    def _in_batches(
        self,
        image: tf.Tensor,
        keep: Callable[[tf.Tensor], tf.Tensor],
        dtype: tf.DType,
        channels: tuple[int, ...] = (),
        neighbours: int = 0,
    ) -> tf.Tensor:
        """Return `keep(probability)` of all slices, (B, H, W, *channels), a batch after the other."""
        shape, step = tf.shape(image), tf.constant(BATCH_SLICES)
        if self._native:
            step = tf.clip_by_value(BATCH_PIXELS // (shape[1] * shape[2]), 1, BATCH_SLICES)
        each = (None, None, None, *channels)
        parts = tf.TensorArray(dtype, 0, dynamic_size=True, infer_shape=False, element_shape=each)
        for first in tf.range(0, shape[0], step):
            if neighbours:  # those beyond the ends repeat them, as `neighbourhood` does
                numbers = tf.range(first - neighbours, tf.minimum(first + step, shape[0]) + neighbours)
                batch = tf.gather(image, tf.clip_by_value(numbers, 0, shape[0] - 1))
                probability = self._probability(tf.cast(batch, tf.float32))
            else:
                probability = self._alone(tf.cast(image[first : first + step], tf.float32))
            parts = parts.write(first // step, keep(probability))
        return parts.concat()


def label_of(probability: tf.Tensor) -> tf.Tensor:
    """Return labels (B, H, W) uint8 of probabilities (B, H, W) or (B, H, W, 2), as `inference.labels_of`."""
    there = probability >= THRESHOLD
    if there.shape.rank == 3:
        return tf.cast(there, tf.uint8)
    return tf.cast(there[..., 0], tf.uint8) + tf.cast(tf.reduce_all(there, -1), tf.uint8)


def checked(image: tf.Tensor, most: int) -> tf.Tensor:
    """Return the slices that a request may hold: none empty, HU that are numbers, no larger than agreed.

    A server feeds what comes; the shape in a signature is a promise that it does not check.
    """
    image = tf.ensure_shape(image, (None, None, None))
    shape = tf.shape(image)
    rules = [
        (shape > 0, "there must be at least one slice and one pixel"),
        (shape[1:] <= MAX_SIDE, f"height and width must be {MAX_SIDE} or less"),
        (tf.reduce_prod(tf.cast(shape, tf.int64)) <= most, f"more than {most} voxels: send fewer slices"),
    ]
    if image.dtype.is_floating:
        rules.append((tf.math.is_finite(image), "HU must be numbers, not NaN or infinite"))
    return kept(image, rules, shape)


def checked_pngs(png: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return PNGs and whether all have one size, read from their headers before anything is decoded.

    Other depths and colours are refused: TensorFlow would scale 8-bit values to 16 bits.
    """
    png = tf.ensure_shape(png, (None,))
    lengths = tf.strings.length(png)
    rules = [(tf.size(png) > 0, "there must be at least one PNG"), (lengths > _HEADER, "these are no PNGs, by length")]
    png = kept(png, rules, lengths)
    header = tf.io.decode_raw(tf.strings.substr(png, 0, _HEADER), tf.uint8)
    sides = tf.reshape(tf.cast(header[:, 16:24], tf.int64), (-1, 2, 4))
    sides = tf.reduce_sum(sides * [1 << 24, 1 << 16, 1 << 8, 1], axis=-1)  # width, height
    rules = [
        (header[:, :8] == tf.constant(list(_SIGNATURE), tf.uint8), "these are no PNGs, by their first bytes"),
        (header[:, 24:] == _GREY_16_BIT, "PNGs must be 16-bit greyscale"),
        (sides <= MAX_SIDE, f"height and width must be {MAX_SIDE} or less"),
        (tf.reduce_sum(tf.reduce_prod(sides, axis=1)) <= MAX_VOXELS, f"more than {MAX_VOXELS} pixels: send fewer"),
    ]
    return kept(png, rules, header), tf.reduce_all(sides == sides[0])


def decode(png: tf.Tensor) -> tf.Tensor:
    """Return HU (H, W) float32 of a PNG that holds HU + 1024."""
    return tf.cast(tf.io.decode_png(png, channels=1, dtype=tf.uint16)[..., 0], tf.float32) - PNG_OFFSET_HU


def kept(value: tf.Tensor, rules: Sequence[tuple[tf.Tensor, str]], received: tf.Tensor) -> tf.Tensor:
    """Return a tensor that exists only where the rules are kept; else the answer is an error that names the rule."""
    checks = [
        tf.debugging.Assert(tf.reduce_all(condition), [f"{rule}. Received:", received], summarize=26)
        for condition, rule in rules
    ]
    with tf.control_dependencies(checks):
        return tf.identity(value)
