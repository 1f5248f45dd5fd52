"""Checkpoint files and finished models on disk."""
