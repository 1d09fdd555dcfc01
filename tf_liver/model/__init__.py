"""Batches become logits: network, losses, metrics, precision."""
