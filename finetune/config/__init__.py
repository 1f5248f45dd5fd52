"""Hydra overrides and the configs composed from them; imports neither torch nor timm."""

from finetune.config.compose import compose, load_config
from finetune.config.errors import ConfigError, usage

__all__ = ["ConfigError", "compose", "load_config", "usage"]
