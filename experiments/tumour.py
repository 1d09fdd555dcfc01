"""Liver and, in it, tumours."""

from tf_liver.experiment import load, replace

EXPERIMENT = replace(load("window"), name="tumour", task="tumour", tumour_ratio=1.0)
