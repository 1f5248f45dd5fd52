"""Tuning of a pretrained network: what trains, when, and at which learning rate."""
