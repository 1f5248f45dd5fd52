"""Run Hydra's composition, also while Hydra runs a command or a notebook's own config."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from finetune.config.folder import config_folder


def compose_with_hydra(command: str, overrides: Sequence[str]) -> DictConfig:
    """Return the composed config of a command; leaves Hydra's global state as it was.

    Raises:
        HydraException, OmegaConfBaseException: an override that does not fit.
    """
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed: DictConfig = compose(command, list(overrides))
    finally:
        GlobalHydra.instance().hydra = running
    return composed
