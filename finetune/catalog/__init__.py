"""The table of timm backbones."""
