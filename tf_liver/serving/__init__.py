"""The SavedModel: raw HU slices or scans in, probabilities and label maps out, and a client for its servers."""
