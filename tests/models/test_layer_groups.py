"""Layer groups against the order in which the network really runs, for many families."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import nn

from finetune.models.backbone import Backbone
from finetune.models.layer_groups import layer_groups

STAGES = {  # how many timm's own order has, or ours where it has none
    "resnet18": 5,
    "densenet121": 5,
    "vgg11_bn": 8,
    "regnetx_002": 5,
    "convnext_atto": 5,
    "tf_efficientnet_lite0": 8,
    "mobilenetv2_050": 8,
    "mobilenetv3_small_050": 7,
    "hrnet_w18_small": 6,
    "dla34": 7,
    "rexnet_100": 17,
    "ghostnet_050": 9,
    "cspresnet50": 5,
    "repvgg_a0": 5,
    "res2net50_26w_4s": 5,
    "nf_resnet26": 5,
    "edgenext_xx_small": 5,
    "mixnet_s": 7,
    "selecsls42": 8,
    "test_vit": 7,
    "vit_srelpos_small_patch16_224": 13,
}
FAMILIES = sorted(STAGES)


@cache
def backbone(name: str) -> Backbone:
    torch.manual_seed(0)
    return Backbone(name, weights="none")


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Gigabytes are given back when the last test has ended."""
    yield
    backbone.cache_clear()


def first_calls(network: Backbone) -> dict[str, int]:
    """Name of each parameter that ran -> when its module first did."""
    calls: dict[str, int] = {}
    hooks = []
    for prefix, module in network.named_modules():
        names = [f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if names:

            def note(_: nn.Module, __: object, names: list[str] = names) -> None:
                for name in names:
                    calls.setdefault(name, len(calls))

            hooks.append(module.register_forward_pre_hook(note))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    return calls


@pytest.mark.parametrize("fine", [False, True], ids=["stages", "blocks"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_used_parameter_is_in_exactly_one_group(name: str, fine: bool) -> None:
    network = backbone(name)
    grouped = [parameter for group in network.layer_groups(fine) for parameter in group]
    used = {parameter for parameter, _ in network.named_parameters()} - network.unused_parameters()
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == used


@pytest.mark.parametrize("fine", [False, True], ids=["stages", "blocks"])
@pytest.mark.parametrize("name", FAMILIES)
def test_groups_come_in_the_order_in_which_the_network_runs(name: str, fine: bool) -> None:
    network = backbone(name)
    calls = first_calls(network)
    firsts = [min(calls[p] for p in group if p in calls) for group in network.layer_groups(fine)]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("name", FAMILIES)
def test_there_are_as_many_stages_as_the_family_has(name: str) -> None:
    assert len(backbone(name).layer_groups()) == STAGES[name]
    assert len(backbone(name).layer_groups(fine=True)) >= STAGES[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_group_has_a_kernel(name: str) -> None:
    sizes = {parameter: tensor.ndim for parameter, tensor in backbone(name).named_parameters()}
    assert all(any(sizes[p] > 1 for p in group) for group in backbone(name).layer_groups(fine=True))


def test_a_model_without_an_order_is_cut_at_its_feature_maps() -> None:
    model = backbone("convnext_atto").model
    used = {name for name, _ in model.named_parameters() if not name.startswith("head.")}
    hidden = nn.Module()  # the same network, but for group_matcher
    for name, child in model.named_children():
        hidden.add_module(name, child)
    hidden.feature_info = model.feature_info
    stages = [[p for p in used if p.startswith((f"stages.{i}.", *(["stem."] if i == 0 else [])))] for i in range(4)]
    assert [set(group) for group in layer_groups(hidden, used)] == [set(stage) for stage in stages]
