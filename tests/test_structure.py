"""The shape of the house: who may import whom, and how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tf_liver"
FILES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = {"train", "crossval", "evaluate", "predict", "export", "phantoms", "prepare", "report", "verify", "download"}
# A room may import those of its own rank or below; runs, files, command and progress are everybody's ground floor.
RANK = {
    "experiment": 0,
    "data": 1,
    "model": 2,
    "volume": 3,
    "serving": 3,
    "callbacks": 4,
    "strategy": 4,
    "tracking": 4,
    "training": 5,
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    found |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imports(path):
        if not module.startswith("tf_liver."):
            continue
        there = room(module)
        assert there not in COMMANDS, f"{path.name} imports the command {there}"
        if here in RANK:
            assert RANK.get(there, 0) <= RANK[here], f"{path.name} ({here}) imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_too_long(path):
    assert len(path.read_text().splitlines()) <= 300


def test_only_augment_imports_albumentations():
    assert [p.name for p in FILES if "albumentations" in imports(p)] == ["augment.py"]


@pytest.mark.parametrize(
    "module",
    [
        *(
            "experiment",
            "runs",
            "plan",
            "state",
            "history",
            "folds",
            "fold_work",
            "ensemble",
            "data.cases",
            "data.nifti",
            "data.phantom",
            "data.build",
            "data.store",
            "data.verification",
            "data.fetch",
            "data.scans",
            "data.dicom",
            "data.write",
            "volume.inference",
            "volume.postprocess",
            "volume.statistics",
            "volume.compare",
            "volume.crossvalidation",
            "volume.report",
            "volume.results",
            "volume.viewer",
            "serving.wire",
            "serving.loader",
            "serving.check",
            "serving.client",
            "serving.over_rest",
        ),
        *sorted(COMMANDS),
    ],
)
def test_these_import_no_tensorflow(module):
    code = f"import sys, tf_liver.{module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_keras_3_is_refused_clearly():
    code = "import tensorflow, tf_liver"
    env = {"PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "needs Keras 2" in done.stderr
    assert "import tf_liver first" in done.stderr
