"""Annotations of labeled shapes, and the masks that are drawn from them."""
