"""Masks: from the values in their files to class indices."""
