"""Export one convolution in place of a network, in a process that tests may kill: export_small.py OUTPUT."""

import sys
from pathlib import Path

import numpy as np
from small_network import small_predictor

from tf_liver.experiment import load, replace
from tf_liver.serving.bundle import write_bundle

if __name__ == "__main__":
    experiment = replace(load("window"), image_size=32, precision="float32")
    slices = np.zeros((2, 32, 32), np.int16)
    write_bundle(small_predictor(experiment), experiment, Path(sys.argv[1]), slices)
