"""The phantoms' slices, straight from the labels and prepared."""

import pytest

from tf_liver.data.build import prepare
from tf_liver.data.cases import find_cases
from tf_liver.data.index import index_labels
from tf_liver.data.store import SliceStore


@pytest.fixture(scope="module")
def index(phantoms):
    return index_labels(find_cases(phantoms), workers=2)


@pytest.fixture(scope="module")
def store(phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(find_cases(phantoms), folder, workers=1)
    return SliceStore(folder, find_cases(phantoms))
