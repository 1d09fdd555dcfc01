"""Labels over REST, as PNGs in base64 both ways (tensorflow.org/tfx/serving/api_rest, encoding binary values).

urllib3 keeps connections open and notices answers that break off, which the standard library's urllib does not; it
comes with TensorFlow, by way of requests, which would add nothing here.
"""

import base64
import json
from typing import Any

import numpy as np
import urllib3

from tf_liver.serving.client import Address, Passing, ServerError, TooLarge
from tf_liver.serving.wire import decode_labels, encode_slices

CONNECT_S = 10.0
TOO_LARGE, BUSY = 413, (429, 502, 503, 504)


class Rest:
    """Asks `serve_encoded` for labels."""

    def __init__(self, address: Address) -> None:
        self._address = address
        version = "" if address.version is None else f"/versions/{address.version}"
        self._url = f"{address.url.rstrip('/')}/v1/models/{address.model}{version}:predict"
        self._pool = urllib3.PoolManager(
            ca_certs=str(address.ca_file) if address.ca_file else None,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=address.deadline_s),
            retries=False,
            maxsize=4,  # segment_volume asks from two threads
        )
        self._headers = {"content-type": "application/json"}
        if address.token:
            self._headers["authorization"] = f"Bearer {address.token}"

    def labels(self, slices: np.ndarray) -> np.ndarray:
        """Return the label map (B, H, W) uint8 of slices in HU; raises as `Transport.labels`."""
        if slices.dtype != np.int16:
            raise ServerError(f"{self._address.url}: REST carries whole HU only; use grpc://. Received: {slices.dtype}")
        images = [{"b64": base64.b64encode(png).decode()} for png in encode_slices(slices)]
        answer = self._post({"signature_name": "serve_encoded", "inputs": {"image_bytes": images}})
        try:
            pngs = [base64.b64decode(png["b64"], validate=True) for png in answer["outputs"]]
            return decode_labels(pngs, slices.shape[1:])
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(f"{self._address.url}: the answer must be a list of PNGs: {error}") from error

    def describe(self) -> dict[str, Any]:
        """Return the model's metadata; raises as `Transport.labels`."""
        answer = self._post({"signature_name": "describe", "inputs": {"question": ["?"]}})
        try:
            return json.loads(answer["outputs"][0])
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ServerError(f"{self._address.url}: the answer must be metadata: {error}") from error

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON object with which the server answers."""
        errors = urllib3.exceptions
        try:
            answer = self._pool.request("POST", self._url, body=json.dumps(body), headers=self._headers)
        except errors.ReadTimeoutError as error:
            raise ServerError(f"{self._address.url}: no answer within {self._address.deadline_s:g} s") from error
        except errors.SSLError as error:
            raise ServerError(f"{self._address.url}: TLS: {error}") from error
        except errors.HTTPError as error:
            raise Passing(str(error)) from error
        try:
            table = json.loads(answer.data)
            table = table if isinstance(table, dict) else {}
        except ValueError:
            table = {}  # a proxy's page
        if answer.status == 200:
            return table
        said = str(table.get("error", answer.reason))
        if answer.status == TOO_LARGE:
            raise TooLarge(said)
        if answer.status in BUSY:
            raise Passing(f"{answer.status}: {said}")
        raise ServerError(f"{self._address.url}: {answer.status}: {said}")
