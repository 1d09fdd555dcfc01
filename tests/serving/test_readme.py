"""The README's serving section, word for word as far as it runs without Docker."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from tf_liver.serving.configs import COMPOSE, FILES
from tf_liver.serving.wire import SIGNATURES, decode_labels, encode_slices
from tf_liver.volume.inference import segment_volume

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().split("## Serving\n")[1].split("\n## ")[0]
BLOCKS = re.findall(r"(?:^    .*\n)+", SECTION, re.MULTILINE)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl(server, slices, predictor, tmp_path):
    (block,) = (block for block in BLOCKS if "curl" in block)
    (tmp_path / "slice.png").write_bytes(encode_slices(slices[20:21])[0])
    command = block.replace("http://localhost:8501", server.url("rest"))
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, timeout=60)
    found = decode_labels([(tmp_path / "label.png").read_bytes()], (1, *slices.shape[1:]))
    np.testing.assert_array_equal(found, segment_volume(predictor, slices[20:21]))


def test_the_table_names_every_signature():
    assert re.findall(r"^\| `(\w+)` \|", SECTION, re.MULTILINE) == list(SIGNATURES)


def test_files_and_image_are_those_of_the_export():
    (block,) = (block for block in BLOCKS if "docker run" in block)
    words = shlex.split(block)
    (image,) = (word for word in words if word.startswith("tensorflow/serving:"))
    assert image.removesuffix("-gpu") in yaml.safe_load(COMPOSE)["services"]["tf_liver"]["image"]
    for name in re.findall(r"(?<!v1)/models/([\w.]+)", SECTION):
        assert name in FILES
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # `make test ARGS=…`
    done = subprocess.run(["make", "-n", "serve"], capture_output=True, text=True, cwd=ROOT, env=alone)
    assert shlex.split(done.stdout) == ["docker", "compose", "-f", "export/compose.yaml", "up"]
