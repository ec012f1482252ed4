"""Checkpoints for use elsewhere."""
