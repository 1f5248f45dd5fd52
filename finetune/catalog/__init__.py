"""Catalog of timm backbones."""
