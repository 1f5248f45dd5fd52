"""Scores of a segmentation, all of them read off counts that can be added up."""
