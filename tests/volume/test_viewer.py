import contextlib
import http.client
import json
import os
import socket
import threading

import pytest

from tf_liver.data.cases import find_cases
from tf_liver.volume.evaluation import read_evaluation
from tf_liver.volume.viewer import PAGE, Viewer, viewer_files


@contextlib.contextmanager
def serving(folder, data):
    with Viewer(viewer_files(read_evaluation(folder), find_cases(data)), 0) as viewer:
        threading.Thread(target=viewer.serve_forever, daemon=True).start()
        yield viewer
        viewer.shutdown()


def ask(viewer, path, host=None, method="GET", token=None):
    """Send a request line as it is, which clients that tidy up paths would not, and return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", viewer.server_port, timeout=10)
    under = path if path == "*" or "://" in path else f"/{token or viewer.token}{path}"
    connection.putrequest(method, under, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{viewer.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_it_serves_the_page_and_the_very_files(evaluated, phantoms):
    with serving(evaluated, phantoms) as viewer:
        for path, name in (("/", "viewer.html"), ("/niivue.umd.js", "niivue.umd.js"), ("/viewer.js?x=1", "viewer.js")):
            assert ask(viewer, path) == (200, (PAGE / name).read_bytes())
        table = json.loads(ask(viewer, "/cases.json")[1])["cases"]
        assert [entry["case_id"] for entry in table] == [case.case_id for case in find_cases(phantoms)]
        for case, entry in zip(find_cases(phantoms), table, strict=True):
            assert ask(viewer, "/" + entry["image"])[1] == case.image.read_bytes()
            assert ask(viewer, "/" + entry["reference"])[1] == case.label.read_bytes()
            prediction = evaluated / "predictions" / f"{case.case_id}.nii.gz"
            assert ask(viewer, "/" + entry["prediction"])[1] == prediction.read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/metrics.csv",
        "/../metrics.csv",
        "/scans/0/../../metrics.csv",
        "/scans/0/../../../../../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/etc/passwd",
        "/\\..\\metrics.csv",
        "/scans/0/",
        "/scans/99/image.nii.gz",
        "/viewer.py",
        "/niivue.umd.js/",
        "http://127.0.0.1/metrics.csv",
        "*",
    ],
)
def test_it_serves_nothing_else(evaluated, phantoms, path):
    with serving(evaluated, phantoms) as viewer:
        assert ask(viewer, path)[0] == 404


def test_other_names_and_other_methods_are_refused(evaluated, phantoms):
    with serving(evaluated, phantoms) as viewer:
        assert ask(viewer, "/", host="evil.example:80")[0] == 403
        assert ask(viewer, "/cases.json", host="evil.example")[0] == 403
        assert ask(viewer, "/", host=f"localhost:{viewer.server_port}")[0] == 200
        assert ask(viewer, "/", method="POST")[0] == 501


@pytest.mark.parametrize("path", ["/", "/cases.json", "/scans/0/image.nii.gz", "/viewer.js"])
def test_without_its_token_nothing_is_served(evaluated, phantoms, path):
    with serving(evaluated, phantoms) as viewer:
        assert len(viewer.token) >= 20
        assert ask(viewer, path)[0] == 200
        for token in ("x" * len(viewer.token), viewer.token[:-1], viewer.token + "x", "%C3%A9", "."):
            assert ask(viewer, path, token=token)[0] == 404
        bare = http.client.HTTPConnection("127.0.0.1", viewer.server_port, timeout=10)
        for line in (path, f"/{path}", f"/{viewer.token}", f"?{viewer.token}"):
            bare.request("GET", line)
            answer = bare.getresponse()
            assert (answer.status, b"nii" in answer.read()) == (404, False)
            bare.close()


def test_two_viewers_have_two_tokens(evaluated, phantoms):
    with serving(evaluated, phantoms) as first, serving(evaluated, phantoms) as second:
        assert first.token != second.token
        assert ask(second, "/", token=first.token)[0] == 404


def test_links_out_of_the_folder_are_not_followed(evaluation, phantoms, tmp_path):
    secret = tmp_path / "secret.nii.gz"
    secret.write_bytes((evaluation / "predictions" / "phantom_00.nii.gz").read_bytes())
    before, later = (evaluation / "predictions" / f"phantom_0{n}.nii.gz" for n in (0, 1))
    before.unlink()
    before.symlink_to(secret)
    with serving(evaluation, phantoms) as viewer:
        assert next(e["case_id"] for e in json.loads(ask(viewer, "/cases.json")[1])["cases"]) == "phantom_01"
        assert ask(viewer, "/scans/0/prediction.nii.gz")[0] == 404
        assert ask(viewer, "/scans/1/prediction.nii.gz")[0] == 200
        later.unlink()
        later.symlink_to(secret)  # after the viewer has looked
        assert ask(viewer, "/scans/1/prediction.nii.gz")[0] == 404
        later.unlink()
        os.mkfifo(later)
        assert ask(viewer, "/scans/1/prediction.nii.gz")[0] == 404


def test_it_listens_on_this_machine_alone(evaluated, phantoms):
    with serving(evaluated, phantoms) as viewer:
        assert viewer.socket.getsockname()[0] == "127.0.0.1"
        assert viewer.socket.family == socket.AF_INET


def test_a_file_that_has_gone_is_not_found_and_a_case_without_one_not_listed(evaluation, phantoms):
    prediction = evaluation / "predictions" / "phantom_00.nii.gz"
    with serving(evaluation, phantoms) as viewer:
        prediction.unlink()
        assert ask(viewer, "/scans/0/prediction.nii.gz")[0] == 404
    with serving(evaluation, phantoms) as viewer:
        assert json.loads(ask(viewer, "/cases.json")[1])["cases"][0]["case_id"] == "phantom_01"
        assert ask(viewer, "/scans/0/image.nii.gz")[0] == 404


def test_urls_say_what_the_first_bytes_are(evaluation, phantoms):
    import gzip

    prediction = evaluation / "predictions" / "phantom_00.nii.gz"
    prediction.write_bytes(gzip.decompress(prediction.read_bytes()))
    table = json.loads(viewer_files(read_evaluation(evaluation), find_cases(phantoms))["cases.json"])["cases"]
    assert table[0]["prediction"] == "scans/0/prediction.nii"
    assert table[1]["prediction"] == "scans/1/prediction.nii.gz"
