"""A small exported model, and servers over it."""

import shutil

import numpy as np
import pytest
from serving_servers import MODEL_SERVER, model_server, standin

from tf_liver.data.phantom import make_phantom


@pytest.fixture(scope="session")
def slices():
    """Forty slices of a phantom, more than two batches, (Z, H, W) int16 HU, and not square."""
    scan = make_phantom(np.random.default_rng(1), size=48).voxels.transpose(2, 1, 0)
    return np.ascontiguousarray(np.resize(scan, (40, *scan.shape[1:])))


@pytest.fixture(scope="session")
def predictor(tiny):
    """A network of the real kind whose masks are neither empty nor full."""
    import tensorflow as tf

    from tf_liver.model.predictor import SlicePredictor
    from tf_liver.model.unet import build_network

    tf.keras.utils.set_random_seed(0)
    return SlicePredictor(build_network(tiny), tiny)


@pytest.fixture(scope="session")
def exported(predictor, tiny, slices, tmp_path_factory):
    """The version folder of an export."""
    from tf_liver.serving.bundle import write_bundle

    return write_bundle(predictor, tiny, tmp_path_factory.mktemp("export"), slices[:3], facts={"model": "tiny"})


@pytest.fixture(scope="session")
def tls(tmp_path_factory):
    """A folder with ca.pem, cert.pem and key.pem for localhost."""
    import trustme

    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    pair = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    pair.private_key_pem.write_to_path(str(folder / "key.pem"))
    for blob in pair.cert_chain_pems:
        blob.write_to_path(str(folder / "cert.pem"), append=True)
    return folder


@pytest.fixture(scope="session")
def _standin(exported, tls):
    with standin(exported.parents[1], "--tls", tls) as server:
        yield server


@pytest.fixture
def server(_standin):
    """The stand-in, without faults."""
    _standin.faults()
    yield _standin
    _standin.faults()


@pytest.fixture(scope="session", params=["stand-in", MODEL_SERVER])
def any_server(request, exported):
    """The stand-in, and TF Serving's own binary where it is on the PATH."""
    if request.param == "stand-in":
        yield request.getfixturevalue("_standin")
    elif not shutil.which(MODEL_SERVER):
        pytest.skip(f"{MODEL_SERVER} is not on the PATH")
    else:
        with model_server(exported.parents[1]) as server:
            yield server
