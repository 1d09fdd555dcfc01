"""Labels over REST, as PNGs in base64 both ways (tensorflow.org/tfx/serving/api_rest, encoding binary values)."""

import base64
import http.client
import json
import math
import ssl
from typing import Any

import numpy as np

from tf_liver.serving.answers import MARGIN_BYTES, METADATA_BYTES, AnswerError, checked_metadata, plain
from tf_liver.serving.client import Address, Passing, ServerError, TooLarge
from tf_liver.serving.http_post import TooLongError, TooSlowError, post
from tf_liver.serving.wire import decode_labels, encode_slices

TOO_LARGE, BUSY = 413, (429, 502, 503, 504)


class Rest:
    """Asks `serve_encoded` for labels."""

    def __init__(self, address: Address) -> None:
        self._address = address
        version = "" if address.version is None else f"/versions/{address.version}"
        self._url = f"{address.url.rstrip('/')}/v1/models/{address.model}{version}:predict"
        ca_file = str(address.ca_file) if address.ca_file else None
        self._trust = ssl.create_default_context(cafile=ca_file) if address.tls else None
        self._headers = {"content-type": "application/json"}
        if address.token:
            self._headers["authorization"] = f"Bearer {address.token}"

    def labels(self, slices: np.ndarray) -> np.ndarray:
        """Return the label map (B, H, W) uint8 of slices in HU; raises as `Transport.labels`."""
        if slices.dtype != np.int16:
            raise ServerError(f"{self._address.url}: REST carries whole HU only; use grpc://. Received: {slices.dtype}")
        images = [{"b64": base64.b64encode(png).decode()} for png in encode_slices(slices)]
        body = {"signature_name": "serve_encoded", "inputs": {"image_bytes": images}}
        # A PNG that saves nothing is a byte a pixel; base64 makes 4 bytes of 3. Twice that is no right answer.
        answer = self._post(body, 2 * math.prod(slices.shape) + len(slices) * (MARGIN_BYTES >> 4) + MARGIN_BYTES)
        try:
            pngs = [base64.b64decode(png["b64"], validate=True) for png in answer["outputs"]]
            return decode_labels(pngs, slices.shape)
        except (KeyError, TypeError, ValueError) as error:
            why = plain(str(error))
            raise ServerError(f"{self._address.url}: the answer must be a list of PNGs: {why}") from error

    def describe(self) -> dict[str, Any]:
        """Return the model's metadata; raises as `Transport.labels`."""
        answer = self._post({"signature_name": "describe", "inputs": {"question": ["?"]}}, METADATA_BYTES)
        try:
            return checked_metadata(answer["outputs"][0])
        except (KeyError, TypeError, IndexError) as error:
            raise AnswerError(f"the answer must be metadata: {plain(repr(error))}") from error

    def _post(self, question: dict[str, Any], most_bytes: int) -> dict[str, Any]:
        """Return the JSON object with which the server answers."""
        where, deadline_s = self._address.url, self._address.deadline_s
        try:
            answer = post(self._url, json.dumps(question).encode(), self._headers, most_bytes, deadline_s, self._trust)
        except TooSlowError as error:
            raise ServerError(f"{where}: no answer within {deadline_s:g} s") from error
        except TooLongError as error:
            raise ServerError(f"{where}: the answer must be {most_bytes:,} bytes or less. Received: more") from error
        except ssl.SSLError as error:
            raise ServerError(f"{where}: TLS: {plain(str(error))}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Passing(plain(str(error)) or type(error).__name__) from error
        try:
            table = json.loads(answer.body)
            table = table if isinstance(table, dict) else {}
        except (ValueError, RecursionError):
            table = {}  # a proxy's page
        if answer.status == 200:
            return table
        said = plain(str(table.get("error", answer.reason)))
        if answer.status == TOO_LARGE:
            raise TooLarge(said)
        if answer.status in BUSY:
            raise Passing(f"{answer.status}: {said}")
        raise ServerError(f"{where}: {answer.status}: {said}")
