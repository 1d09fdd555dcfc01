"""Scans on disk become batches of (image, mask)."""

# Label values and their names in Task03_Liver.
LABELS = {0: "background", 1: "liver", 2: "cancer"}
TUMOUR = 2
# What a model of each task looks for. Region n of a label map is where its value is above n: the liver with its tumours
# is 1 and 2, the tumours are 2.
REGIONS = {"liver": ("liver",), "tumour": ("liver", "tumour")}
# The two conventions of what is liver: tumours included, as LiTS scores it, or label 1 alone, as the Decathlon does.
LIVERS = {"whole": (1, 2), "parenchyma": (1,)}


class DataError(ValueError):
    """A scan or a data folder that must not be used: the message names file, rule and what was received."""


class DataWarning(UserWarning):
    """Something odd in data that can be used all the same."""


class GridWarning(DataWarning):
    """Something doubtful about where a scan's voxels lie; its Volume carries the text too."""
