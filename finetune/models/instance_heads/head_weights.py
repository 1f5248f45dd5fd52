"""Weights of a Mask R-CNN in torchvision's format, loaded as far as they fit."""

import logging
import re
from pathlib import Path

from torch import nn

from finetune.io.messages import shortlist
from finetune.models.state_dicts import largest_state
from finetune.models.weights import WeightsError, read_content

logger = logging.getLogger(__name__)


def load_fitting_weights(head: nn.Module, path: str) -> None:
    """Load the tensors of a file that fit the head by name and shape, and log how many do.

    Args:
        head: has `rpn` and `roi_heads`.
        path: file of a state dict, in which these names may follow a prefix.

    Raises:
        WeightsError: if the file cannot be read as plain tensors, or none of them fits.
    """
    found = largest_state(read_content(Path(path)))
    given = {_current_name(name): tensor for name, tensor in (found.state if found else {}).items()}
    own = head.state_dict()
    fitting = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    if not fitting:
        raise WeightsError(
            f"head.weights='{path}': none of its {len(given)} tensors ({shortlist(given, 3)}) fits one of "
            f"the head's {len(own)} ({shortlist(own, 3)}) by name and shape. Give a file of torchvision's Mask "
            f"R-CNN and its head.channels, head.mask_layers and head.box_features, or set head.weights=null."
        )
    head.load_state_dict(fitting, strict=False)
    logger.info("head.weights='%s': %d of the head's %d tensors fit, and are loaded", path, len(fitting), len(own))


def _current_name(name: str) -> str:
    """Return a name without prefix, as torchvision has named its tensor since 0.14.

    >>> _current_name("module.rpn.head.conv.weight"), _current_name("roi_heads.mask_head.mask_fcn2.bias")
    ('rpn.head.conv.0.0.weight', 'roi_heads.mask_head.1.0.bias')
    """
    name = re.sub(r"^.*?(?=(rpn\.head|roi_heads)\.)", "", name)
    name = re.sub(r"^(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", name)
    return re.sub(r"mask_fcn(\d+)", lambda found: f"{int(found[1]) - 1}.0", name)
