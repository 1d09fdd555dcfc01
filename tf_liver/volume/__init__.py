"""A whole scan becomes a label map, and how good it is."""
