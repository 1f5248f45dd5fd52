"""Try every timm model with every head: build them, run them forward and backward, and write the results to a table.

A head gets the backbone at the output stride that the head is made for. It reads only the feature pyramid of a
backbone, so it is tried once for each distinct pyramid. Every backbone also loads its own weights, at the settings
that a training starts with. Models that are too large for the memory are tried on torch's meta device, without
values. The script may be interrupted; models that are in the table are not tried again.

python benchmarks/coverage.py TABLE [--names 'convnext*' 'resnet*'] [--largest 60]
"""

import argparse
import csv
import gc
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
from torch import nn

from finetune.builders.model import backbone_image_size
from finetune.models import HEADS, Backbone
from finetune.models.features import read_maps, read_pools
from finetune.models.heads import HasAuxiliaryOutputs, PyramidSpec
from finetune.models.input_size import family
from finetune.models.neck import PyramidNeck

COLUMNS = ("name", "family", "parameters", "strides", "sizes", "stages", "blocks", "without", "why", "weights", "tried")
SIZE = (64, 96)  # pixels
CROP = 320  # crop size of a training, pixels
TRIED = "heads dilated weights"  # what a row covers; earlier rows cover only heads on undilated backbones
NUMBERS = {"gemma4_vit"}  # families whose forward pass depends on values, so that the meta device does not work


def tried(name: str, largest: int, known: dict[tuple[Any, ...], dict[str, str]]) -> dict[str, str]:
    """Return a row of the table.

    Args:
        name: a timm model name.
        largest: largest number of parameters of a model that is tried with values.
        known: results of the heads for each pyramid; extended.
    """
    row = dict.fromkeys(COLUMNS, "") | {"name": name, "family": family(name), "weights": weights(name)}
    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
        row["parameters"] = str(count)
        with torch.device("meta" if count > largest and row["family"] not in NUMBERS else "cpu"):
            heads, described = check(name, known)
            check_weights(name)
        row |= described | {"tried": TRIED}
    except Exception as error:  # of any type: the table reports it
        return row | {"without": " ".join(HEADS), "why": f"{type(error).__name__}: {error}".replace("\n", " ")[:300]}
    failed = {head: why for head, why in heads.items() if why}
    reasons = [f"{head}: {why}" for head, why in failed.items() if not HEADS[head].takes_pools]  # few backbones have
    return row | {"without": " ".join(failed), "why": "; ".join(reasons)}


def weights(name: str) -> str:
    """Return tag, size in pixels and license of all pretrained weights of timm, its default first."""
    configs = timm.models.get_arch_pretrained_cfgs(name)
    default = timm.get_pretrained_cfg(name)
    found = [(full.partition(".")[2], config) for full, config in configs.items() if config.has_weights]
    found.sort(key=lambda pair: default is None or pair[0] != default.tag)  # stable
    return " ".join(f"{tag}:{config.input_size[-1]}:{config.license or 'unknown'}" for tag, config in found)


def check(name: str, known: dict[tuple[Any, ...], dict[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the error of each head, empty if it works; and the columns that describe the backbone."""
    found: dict[str, str] = {}
    for stride in sorted({spec.output_stride for spec in HEADS.values()}):
        heads = [head for head, spec in HEADS.items() if spec.output_stride == stride]
        backbone, outcome = check_heads(name, stride, heads, known)  # the last is the undilated one
        found |= outcome
    return {head: found[head] for head in HEADS}, describe(backbone)


def check_heads(
    name: str, stride: int, heads: Sequence[str], known: dict[tuple[Any, ...], dict[str, str]]
) -> tuple[Backbone, dict[str, str]]:
    """Return the backbone at an output stride, and the errors of the heads that are made for this stride."""
    backbone = Backbone(name, "none", output_stride=stride)
    neck = PyramidNeck(3, backbone.levels, output_stride=stride)
    images = torch.randn(2, 3, *SIZE)
    check_gradients(backbone, neck(images, backbone(images)))
    key = (neck.channels, neck.strides, backbone.pools, stride)
    if key not in known:
        known[key] = {head: check_head(head, neck, backbone) for head in heads}
    return backbone, known[key]


def check_weights(name: str) -> None:
    """Raise ValueError unless a backbone loads all of its own weights at the settings that a training starts with."""
    state = timm.create_model(name).state_dict()
    given = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": dict(state)}}
    settings = {"name": name, "weights": "own", "image_size": None}
    size = backbone_image_size({"backbone": settings, "augment": {"crop": CROP}})
    with mock.patch("finetune.models.timm_factory.pretrained_arguments", return_value=given):
        taken = Backbone(name, "own", image_size=size).model.state_dict()
    if missing := [key for key in taken if key not in state]:
        raise ValueError(f"weights of its own lack {missing[:3]}")
    for key, tensor in taken.items():
        if tensor.shape == state[key].shape and not (tensor.is_meta or torch.equal(tensor, state[key])):
            raise ValueError(f"weights of its own are not taken: {key}")


def describe(backbone: Backbone) -> dict[str, str]:
    """Check the layer groups of a backbone, and return the columns that describe it."""
    groups = [backbone.layer_groups(fine) for fine in (False, True)]
    check_groups(backbone, groups)
    only = backbone.input_size.only
    return {
        "strides": " ".join(map(str, backbone.strides)),
        "sizes": "x".join(map(str, only)) if only else f"multiples of {backbone.input_size.step[0]}",
        "stages": str(len(groups[0])),
        "blocks": str(len(groups[1])),
    }


def check_gradients(backbone: Backbone, pyramid: list[torch.Tensor]) -> None:
    """Raise ValueError unless exactly the unused parameters get no gradient."""
    unused = backbone.unused_parameters()
    sum(level.square().sum() for level in pyramid[1:]).backward()
    without = {key for key, parameter in backbone.named_parameters() if parameter.grad is None}
    if without != unused:
        raise ValueError(f"without a gradient, but not called unused: {sorted(without ^ unused)[:3]}")


def check_groups(backbone: Backbone, groups: list[list[list[str]]]) -> None:
    """Raise ValueError unless each used parameter is in one group and the groups are in forward order."""
    unused = backbone.unused_parameters()
    used = sorted(key for key, _ in backbone.named_parameters() if key not in unused)
    runs = first_runs(backbone)
    for found in groups:
        if sorted(key for group in found for key in group) != used or len(found) < 2:
            raise ValueError(f"{len(found)} layer groups, or some that lack parameters")
        firsts = [
            min(runs[key] for key in group if key in runs) for group in found if any(key in runs for key in group)
        ]
        if firsts != sorted(firsts):
            late = next(i for i in range(1, len(firsts)) if firsts[i] < firsts[i - 1])
            raise ValueError(f"layer group {late}, with {found[late][0]}, runs before the one below it")


@torch.no_grad()
def first_runs(backbone: Backbone) -> dict[str, int]:
    """Return the rank in which the module of each parameter first ran in a forward pass."""
    runs: dict[str, int] = {}
    hooks = []
    for prefix, module in backbone.named_modules():
        names = [f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)]

        def note(_: nn.Module, __: object, names: list[str] = names) -> None:
            for name in names:
                runs.setdefault(name, len(runs))

        hooks.append(module.register_forward_pre_hook(note))
    backbone(torch.randn(2, 3, *SIZE))
    for hook in hooks:
        hook.remove()
    return runs


def check_head(head: str, neck: PyramidNeck, backbone: Backbone) -> str:
    """Return why a head does not work with a pyramid, or an empty text."""
    spec = HEADS[head]
    try:
        pools = backbone.pools if spec.takes_pools else ()
        decoder, classifier = spec.build(PyramidSpec(neck.channels, neck.strides, pools), 3)
        with torch.no_grad():
            backbone._read = read_pools if pools else read_maps
            images = torch.randn(2, 3, *SIZE)
            maps = [
                level.detach() if isinstance(level, torch.Tensor) else level for level in neck(images, backbone(images))
            ]
        run(decoder, classifier, maps)
    except Exception as error:  # of any type: the table reports it
        return f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
    return ""


def run(decoder: nn.Module, classifier: nn.Module, maps: list[Any]) -> None:
    """Run forward and backward; raise ValueError if the logits have the wrong size or a gradient is missing."""
    decoded, more = (
        decoder.forward_with_auxiliary(maps) if isinstance(decoder, HasAuxiliaryOutputs) else (decoder(maps), [])
    )
    logits = classifier(decoded)
    if logits.shape != (2, 3, *SIZE):
        raise ValueError(f"logits of shape {tuple(logits.shape)}")
    sum(scores.square().sum() for scores in (logits, *more)).backward()
    if missing := [key for part in (decoder, classifier) for key, p in part.named_parameters() if p.grad is None]:
        raise ValueError(f"no gradient: {missing[:3]}")


def main() -> None:
    """Try the models and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--names", default=["*"], nargs="+")
    parser.add_argument(
        "--largest", type=int, default=60, help="millions of parameters of the largest model that is tried with values"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # timm logs every position embedding that it resamples
    rows = list(csv.DictReader(options.table.open())) if options.table.exists() else []
    done, known = {row["name"] for row in rows}, {}
    for name in timm.list_models(options.names):
        if name in done:
            continue
        rows.append(tried(name, options.largest * 10**6, known))
        gc.collect()
        print(*rows[-1].values(), flush=True)
        with options.table.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: row["name"]))
    pools = {head for head, spec in HEADS.items() if spec.takes_pools}
    complete = sum(set(row["without"].split()) <= pools for row in rows)
    print(f"{complete} of {len(rows)} under every head that needs no pooling indices")


if __name__ == "__main__":
    main()
