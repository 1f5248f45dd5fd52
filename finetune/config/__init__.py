"""Compose configs from Hydra overrides."""
