"""The SavedModel: raw HU slices in, probabilities out."""
