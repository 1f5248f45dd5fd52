"""Scores of a segmentation, all computed from integer counts that can be added up."""
