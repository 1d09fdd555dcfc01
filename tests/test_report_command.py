"""`python -m tf_liver.report` as users meet it."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from evaluations import LOG

from tf_liver import report
from tf_liver.runs import Run


def serve(*argv):
    """Start the viewer; return the process and the URL that it prints."""
    command = [sys.executable, "-m", "tf_liver.report", "--serve", *map(str, argv)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+/\S+/", line)
    assert url, line + process.stderr.read()
    return process, url[0]


def test_it_writes_the_page_again(evaluation, capsys):
    assert report.main([str(evaluation)]) == 0
    assert capsys.readouterr().out.endswith(f"written: {evaluation / 'report.html'}\n")
    first = (evaluation / "report.html").read_bytes()
    assert report.main([str(evaluation)]) == 0
    assert (evaluation / "report.html").read_bytes() == first


def test_a_run_means_its_evaluation_and_none_the_latest_run(evaluation, tmp_path, tiny, capsys):
    run = Run.create(tmp_path / "runs", tiny, {}, {}).path
    (run / "log.csv").write_text(LOG)
    shutil.copytree(evaluation, run / "evaluation")
    assert report.main([str(run)]) == 0
    page = (run / "evaluation" / "report.html").read_text()
    assert "Learning curves" in page
    (run / "evaluation" / "report.html").unlink()
    assert report.main(["--runs", str(tmp_path / "runs")]) == 0
    assert (run / "evaluation" / "report.html").read_text() == page


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["{tmp}"], "not an evaluation folder: metrics.csv is missing"),
        (["{tmp}/nothing"], "not an evaluation folder: metrics.csv is missing"),
        (["--runs", "{tmp}"], "there is no run yet"),
        (["--port", "70000"], "--port: must lie in [0, 65535]. Received: 70000"),
    ],
)
def test_it_refuses_in_one_line(argv, message, tmp_path, capsys):
    assert report.main([a.format(tmp=tmp_path) for a in argv]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_viewer_ends_with_ctrl_c(evaluation):
    process, url = serve(evaluation)
    assert urllib.request.urlopen(url, timeout=10).status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stderr.read() == "interrupted\n"


def test_a_port_that_is_taken_is_named(evaluation, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert report.main(["--serve", str(evaluation), "--port", str(port)]) == 2
    assert capsys.readouterr().err == f"error: --port: Address already in use. Received: {port}\n"
