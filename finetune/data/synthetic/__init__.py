"""Drawings on textured backgrounds."""
