"""The client against a real server process on loopback: the stand-in, and TF Serving where there is one."""

import json
import os
import shutil
import threading
import time
import urllib.request

import numpy as np
import pytest
from serving_servers import breaking_wire, standin

from tf_liver.data.slices import THRESHOLD
from tf_liver.serving import client
from tf_liver.serving.client import REQUEST_BYTES, Address, RemoteModel, ServerError, slices_per_request
from tf_liver.volume.inference import probability_batches, segment_volume

PROTOCOLS = ("rest", "grpc")


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.02)


@pytest.fixture(scope="module")
def local(predictor, slices):
    """What the project itself answers."""
    label_map = segment_volume(predictor, slices)
    assert 0 < label_map.sum() < label_map.size
    return label_map


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", [None, 1])
def test_equal_to_local_prediction_voxel_for_voxel(any_server, slices, local, protocol, version):
    found = RemoteModel(Address(any_server.url(protocol), version=version)).segment(slices)
    np.testing.assert_array_equal(found, local)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_scan_in_many_requests(server, slices, local, protocol, monkeypatch, capsys):
    monkeypatch.setattr(client, "REQUEST_BYTES", slices[0].nbytes * 17)
    np.testing.assert_array_equal(RemoteModel(Address(server.url(protocol))).segment(slices), local)
    assert "asking the server: 3" in capsys.readouterr().out


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_as_a_predictor_and_what_it_says_of_itself(server, slices, local, protocol):
    model = RemoteModel(Address(server.url(protocol)))
    np.testing.assert_array_equal(segment_volume(model, slices), local)
    assert model.describe() == {"model": "tiny"}


def test_requests_are_whole_batches():
    for side, count in ((512, 64), (600, 32), (2048, 4), (8192, 1)):
        assert slices_per_request(np.broadcast_to(np.int16(0), (1000, side, side)), REQUEST_BYTES) == count


def test_hu_that_are_no_whole_numbers(server, slices, predictor):
    halves = slices + np.float32(0.5)
    found = RemoteModel(Address(server.url("grpc"))).segment(halves)
    np.testing.assert_array_equal(found, segment_volume(predictor, halves))
    with pytest.raises(ServerError, match="REST carries whole HU only; use grpc://"):
        RemoteModel(Address(server.url("rest"))).segment(halves)


def test_padding_below_air_changes_nothing(server, slices, predictor):
    padded = slices.copy()
    padded[:, :5] = -3024
    found = RemoteModel(Address(server.url("rest"))).segment(padded)
    np.testing.assert_array_equal(found, segment_volume(predictor, padded))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unavailable_twice_then_fine(server, slices, local, protocol):
    server.faults(unavailable=2)
    np.testing.assert_array_equal(RemoteModel(Address(server.url(protocol))).segment(slices), local)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unavailable_for_good(server, slices, protocol):
    server.faults(unavailable=100)
    with pytest.raises(ServerError, match=r"not available, 6 times: .*the server is restarting"):
        RemoteModel(Address(server.url(protocol))).segment(slices)


@pytest.mark.parametrize(("protocol", "code"), [("rest", "400"), ("grpc", "INVALID_ARGUMENT")])
def test_row_74_the_server_lives(any_server, slices, local, protocol, code):
    model = RemoteModel(Address(any_server.url(protocol)))
    with pytest.raises(ServerError, match=f"{code}: .*height and width must be 2048 or less"):
        model.segment(np.zeros((1, 1, 2049), np.int16))
    if protocol == "grpc":
        with pytest.raises(ServerError, match=f"{code}: .*HU must be numbers, not NaN"):
            model.segment(np.full((1, 4, 4), np.nan, np.float32))
    np.testing.assert_array_equal(model.segment(slices), local)


def test_plain_json(any_server, slices, predictor, local):
    """What somebody without this client sends: nested lists, by rows and by columns."""
    for question, key in (
        ({"instances": slices[:2].tolist()}, "predictions"),
        ({"inputs": slices[:2].tolist()}, "outputs"),
    ):
        request = json.dumps(question).encode()
        with urllib.request.urlopen(
            f"{any_server.url('rest')}/v1/models/tf_liver:predict", request, timeout=60
        ) as answer:
            found = json.load(answer)[key]
        names = ("label", "probability")
        label, probability = ([row[n] for row in found] if key == "predictions" else found[n] for n in names)
        np.testing.assert_array_equal(label, local[:2])
        np.testing.assert_allclose(probability, predictor(slices[:2].astype(np.float32)), atol=1e-5)


@pytest.mark.parametrize("url", ["http://localhost:9", "grpc://localhost:9"])
def test_nobody_there(slices, url, monkeypatch):
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    with pytest.raises(ServerError, match=f"{url}: not available, 2 times"):
        RemoteModel(Address(url)).segment(slices)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_slow(server, slices, protocol):
    server.faults(delay_s=2)
    with pytest.raises(ServerError, match=r"no answer within 0\.5 s"):
        RemoteModel(Address(server.url(protocol), deadline_s=0.5)).segment(slices)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cut_off_in_the_middle_of_an_answer(server, slices, local, protocol):
    with breaking_wire(server.ports[protocol], after_bytes=3000) as (port, connections):
        url = server.url(protocol).rpartition(":")[0]
        np.testing.assert_array_equal(RemoteModel(Address(f"{url}:{port}")).segment(slices), local)
        assert len(connections) > 1


@pytest.mark.parametrize(("protocol", "code"), [("rest", "404"), ("grpc", "NOT_FOUND")])
def test_wrong_version_and_wrong_name(any_server, slices, protocol, code):
    for address in ({"version": 9}, {"model": "spleen"}):
        with pytest.raises(ServerError, match=f"{code}: Servable not found for request"):
            RemoteModel(Address(any_server.url(protocol), **address)).segment(slices)


@pytest.mark.parametrize(("protocol", "code"), [("rest", "400"), ("grpc", "INVALID_ARGUMENT")])
def test_a_refusal_is_passed_on(server, slices, protocol, code):
    server.faults(refuse="there must be at least one slice")
    with pytest.raises(ServerError, match=f"localhost:[0-9]+: {code}: there must be at least one slice"):
        RemoteModel(Address(server.url(protocol))).segment(slices)


def test_grpcs_own_limit_of_4_mib(server, predictor, slices):
    """Ten slices of 512² are 5 MiB: halved until they pass."""
    large = np.resize(slices, (10, 512, 512))
    found = RemoteModel(Address(server.url("grpc_small"))).segment(large)
    # Batches of another size round otherwise on some CPUs (one voxel of 2.6 million on an AMD EPYC).
    probability = np.concatenate([p for _, p in probability_batches(predictor, large)])
    clear = np.abs(probability - THRESHOLD) > 1e-5
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(found[clear], probability[clear] > THRESHOLD)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_limit_that_slices_fit_below_or_not(server, slices, local, protocol):
    server.faults(limit_bytes=120_000)
    np.testing.assert_array_equal(RemoteModel(Address(server.url(protocol))).segment(slices), local)
    server.faults(limit_bytes=500)
    with pytest.raises(ServerError, match="refuses a single slice as too large"):
        RemoteModel(Address(server.url(protocol))).segment(slices)


@pytest.mark.parametrize("protocol", ["https", "grpcs"])
def test_tls_and_token(server, slices, local, tls, protocol, monkeypatch):
    server.faults(token="s3cret")
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    url, ca = server.url(protocol), tls / "ca.pem"
    np.testing.assert_array_equal(RemoteModel(Address(url, ca_file=ca, token="s3cret")).segment(slices), local)
    with pytest.raises(ServerError, match="who are you"):
        RemoteModel(Address(url, ca_file=ca)).segment(slices)
    with pytest.raises(ServerError, match=r"(?i)certificate|handshake|ssl"):  # nobody vouches for this server
        RemoteModel(Address(url, token="s3cret")).segment(slices)


def test_a_token_never_travels_in_the_open(monkeypatch):
    monkeypatch.setenv("TF_LIVER_TOKEN", "s3cret")
    with pytest.raises(ValueError, match="over https:// or grpcs:// only"):
        Address("http://host:8501")
    assert "s3cret" not in repr(Address("https://host:8501"))


@pytest.mark.parametrize("url", ["host:8501", "ftp://host", "grpc://host", "http://", "grpc://host:port"])
def test_addresses_that_are_none(url):
    with pytest.raises(ValueError, match=r"server: |Port"):
        Address(url)


@pytest.mark.slow
def test_rows_75_and_76_versions_change_under_load(exported, slices, local, tmp_path):
    """Version 2 comes while requests run, then a broken 3: no request fails, and 2 goes on answering."""
    root = tmp_path / "tf_liver"
    shutil.copytree(exported, root / "1")
    with standin(tmp_path, "--poll", "0.05") as server:
        models = [RemoteModel(Address(server.url(protocol))) for protocol in PROTOCOLS]
        errors, answers, done = [], [0], threading.Event()

        def ask(model):
            while not done.is_set():
                try:
                    np.testing.assert_array_equal(model._transport.labels(slices[:4]), local[:4])
                    answers[0] += 1
                except Exception as error:
                    errors.append(error)

        threads = [threading.Thread(target=ask, args=(model,)) for model in models]
        for thread in threads:
            thread.start()
        for number, state in ((2, "AVAILABLE"), (3, "END")):
            shutil.copytree(exported, root / ".new")
            if number == 3:
                shutil.rmtree(root / ".new" / "variables")
            (root / ".new").rename(root / str(number))
            wait_for(lambda n=number, s=state: {"version": str(n), "state": s}.items() <= server.status()[-1].items())
        asked = answers[0]
        wait_for(lambda: answers[0] > asked + 4)
        done.set()
        for thread in threads:
            thread.join()
        assert not errors
        assert server.status()[0]["version"] == "2"


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_server_elsewhere(slices):
    """TF_LIVER_SERVING_URL names a TF Serving, of whatever network: it answers with a label map, or tests say why."""
    url = os.environ.get("TF_LIVER_SERVING_URL")
    if not url:
        pytest.skip("TF_LIVER_SERVING_URL names no server")
    label_map = RemoteModel(Address(url)).segment(slices)
    assert label_map.shape == slices.shape
    assert set(np.unique(label_map)) <= {0, 1, 2}
