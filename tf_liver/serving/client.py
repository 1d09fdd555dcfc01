"""Scans through a server: whole label maps from TF Serving over gRPC or REST, equal to those of `segment_volume`."""

import functools
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import numpy as np

from tf_liver.data import TUMOUR
from tf_liver.data.slices import neighbourhood
from tf_liver.experiment import Experiment, from_json
from tf_liver.progress import track
from tf_liver.serving.answers import AnswerError, checked_labels
from tf_liver.serving.wire import MODEL_NAME, require_serving_api
from tf_liver.volume.inference import BATCH_SLICES

Answer = TypeVar("Answer")

# A request of 64 slices of 512² in int16: large enough that the wire does not count, small enough for any server.
REQUEST_BYTES = 32 << 20
DEADLINE_S = 300.0
ATTEMPTS, FIRST_WAIT_S = 6, 0.5  # waits double: 15 s in all, enough for a server that restarts
TOKEN_VARIABLE = "TF_LIVER_TOKEN"


class ServerError(ValueError):
    """What a server answered instead of a label map; the message names the server."""


class Passing(Exception):
    """A failure that may pass: not there, busy, or gone in the middle of an answer."""


class TooLarge(Exception):
    """A request beyond what the server, or a proxy before it, takes."""


@dataclass(frozen=True)
class Address:
    """Which model of which server, and how to prove who asks.

    url: http://host:8501 or grpc://host:8500; https:// and grpcs:// with TLS.
    ca_file: PEM file of the authority that signed the server's certificate; None trusts the system's.
    token: sent as `authorization: Bearer …`, over TLS only.

    Raises:
        ValueError: another kind of URL, or a token that would travel in the open.
    """

    url: str
    model: str = MODEL_NAME
    version: int | None = None
    ca_file: Path | None = None
    token: str = field(default_factory=lambda: os.environ.get(TOKEN_VARIABLE, ""), repr=False)
    deadline_s: float = DEADLINE_S

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
            raise ValueError(f"server: must be like http://host:8501 or grpc://host:8500. Received: {self.url}")
        if parts.scheme.startswith("grpc") and parts.port is None:
            raise ValueError(f"server: gRPC needs a port, 8500 for instance. Received: {self.url}")
        if self.token and not self.tls:
            raise ValueError(f"server: the token of {TOKEN_VARIABLE} is sent over https:// or grpcs:// only")

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.url).scheme in ("https", "grpcs")


class Transport(Protocol):
    """One way to ask."""

    def labels(self, slices: np.ndarray) -> np.ndarray:
        """Return the label map (B, H, W) uint8 of slices in HU.

        Raises:
            Passing, TooLarge, AnswerError: see there.
            ServerError: an error that will not pass.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return the model's metadata; raises as `labels`."""
        ...


class RemoteModel:
    """A served model that segments whole scans; as a predictor, it answers with labels for probabilities."""

    def __init__(self, address: Address) -> None:
        self._address, self._request_bytes = address, REQUEST_BYTES
        self.neighbours = 0  # slices on each side that the model looks at as well: known once it was asked to describe
        self._transport: Transport
        if urlsplit(address.url).scheme.startswith("grpc"):
            require_serving_api()
            from tf_liver.serving.over_grpc import Grpc

            self._transport = Grpc(address)
        else:
            from tf_liver.serving.over_rest import Rest

            self._transport = Rest(address)

    def describe(self) -> dict[str, Any]:
        """Return what the export's metadata.json says; raises as `segment`."""
        said = self._patiently(self._transport.describe)
        self.neighbours = said.get("neighbours", 0)
        if self.neighbours and urlsplit(self._address.url).scheme.startswith("http"):
            raise ServerError(
                f"{self._address.url}: REST carries single slices, and this model wants neighbours; use gRPC"
            )
        return said

    def experiment(self) -> Experiment:
        """Return the experiment that the served model was trained by; raises ExperimentError where it is not one."""
        return from_json(json.dumps(self.describe().get("experiment")), self._address.url)

    def __call__(self, images_hu: np.ndarray) -> np.ndarray:
        """Return 1.0 where the server says liver: (B + 2n, H, W) HU → (B, H, W) float32, as `segment_volume` calls it.

        Where it says tumour too: (B, H, W, 2), of liver and of tumour.
        """
        whole = images_hu.astype(np.int16)
        labels = self.segment(whole if (whole == images_hu).all() else images_hu)
        labels = labels[self.neighbours : len(labels) - self.neighbours]
        if labels.max() < TUMOUR:
            return labels.astype(np.float32)
        return np.stack([labels > 0, labels == TUMOUR], axis=-1).astype(np.float32)

    def segment(self, slices: np.ndarray) -> np.ndarray:
        """Return the label map of a scan: (depth, height, width) HU → (depth, height, width) uint8.

        Raises:
            ServerError: the server refused, did not answer in time, or was not to be had for ATTEMPTS times.
        """
        label_map = np.empty(slices.shape, np.uint8)
        size = slices_per_request(slices, self._request_bytes)
        parts = self._parts(slices, size)
        if len(slices) > size:
            parts = track(parts, "asking the server", -(-len(slices) // size))
        for first, labels in parts:
            label_map[first : first + len(labels)] = labels
        return label_map

    def _parts(self, slices: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first slice, label map) of one request after the other; halves of those that are too large."""
        first = 0
        while first < len(slices):
            last = min(first + size, len(slices))
            part = slices[neighbourhood(first, last, self.neighbours, len(slices))]
            try:
                labels = self._patiently(functools.partial(self._labels, part))
            except TooLarge as error:
                if last - first == 1:
                    raise ServerError(f"{self._address.url}: refuses a single slice as too large: {error}") from error
                size = (last - first + 1) // 2
                self._request_bytes = size * part[0].nbytes  # the next scan need not find out again
                continue
            yield first, labels[self.neighbours : len(labels) - self.neighbours]
            first = last

    def _labels(self, part: np.ndarray) -> np.ndarray:
        return checked_labels(self._transport.labels(part), part.shape)

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Ask until there is an answer, with longer and longer waits in between."""
        for attempt in range(ATTEMPTS):
            if attempt:
                # At random, so that clients that failed together do not come back together.
                time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
            try:
                return ask()
            except AnswerError as error:
                raise ServerError(f"{self._address.url}: {error}") from error
            except Passing as error:
                last = error
        raise ServerError(f"{self._address.url}: not available, {ATTEMPTS} times: {last}") from last


def slices_per_request(slices: np.ndarray, most_bytes: int) -> int:
    """Return how many slices go into a request: whole batches of the served model, as far as the bytes allow."""
    count = max(1, most_bytes // (slices.itemsize * slices.shape[1] * slices.shape[2]))
    return max(count // BATCH_SLICES * BATCH_SLICES, min(count, BATCH_SLICES))
