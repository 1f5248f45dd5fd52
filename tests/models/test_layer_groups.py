"""Layer groups against the order of the forward pass, for many families."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import nn

from finetune.models.backbone import Backbone
from finetune.models.layer_groups import layer_groups
from tests.models.sampling import slow_unless

STAGES = {  # number of layer groups of the family
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
# a plain CNN, one without norms in its stages, a transformer with tokens, shared relative positions, branches
FAMILIES = slow_unless(
    ["resnet18", "convnext_atto", "test_vit", "vit_srelpos_small_patch16_224", "hrnet_w18_small"], sorted(STAGES)
)


@cache
def backbone(name: str) -> Backbone:
    torch.manual_seed(0)
    return Backbone(name, weights="none")


@cache
def groups(name: str, fine: bool) -> list[list[str]]:
    return backbone(name).layer_groups(fine)


@pytest.fixture(scope="module", autouse=True)
def cleared_cache() -> Iterator[None]:
    """Free gigabytes after the last test."""
    yield
    backbone.cache_clear()


@cache
def first_calls(name: str) -> dict[str, int]:
    """Return, for each parameter that took part in a forward pass, the position of its module in the order of calls."""
    network = backbone(name)
    calls: dict[str, int] = {}
    hooks = []
    for prefix, module in network.named_modules():
        names = [f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if names:

            def record(_: nn.Module, __: object, names: list[str] = names) -> None:
                for name in names:
                    calls.setdefault(name, len(calls))

            hooks.append(module.register_forward_pre_hook(record))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    return calls


@pytest.mark.parametrize("fine", [False, True], ids=["stages", "blocks"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_used_parameter_is_in_exactly_one_group(name: str, fine: bool) -> None:
    network = backbone(name)
    grouped = [parameter for group in groups(name, fine) for parameter in group]
    used = {parameter for parameter, _ in network.named_parameters()} - network.unused_parameters()
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == used


@pytest.mark.parametrize("fine", [False, True], ids=["stages", "blocks"])
@pytest.mark.parametrize("name", FAMILIES)
def test_groups_are_in_the_order_of_the_forward_pass(name: str, fine: bool) -> None:
    calls = first_calls(name)
    firsts = [min(calls[p] for p in group if p in calls) for group in groups(name, fine)]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_number_of_stages_is_that_of_the_family(name: str) -> None:
    assert len(groups(name, fine=False)) == STAGES[name]
    assert len(groups(name, fine=True)) >= STAGES[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_group_has_a_kernel(name: str) -> None:
    sizes = {parameter: tensor.ndim for parameter, tensor in backbone(name).named_parameters()}
    assert all(any(sizes[p] > 1 for p in group) for group in groups(name, fine=True))


def test_a_model_without_an_order_is_split_at_its_feature_maps() -> None:
    model = backbone("convnext_atto").model
    used = {name for name, _ in model.named_parameters() if not name.startswith("head.")}
    without_matcher = nn.Module()  # the same network without group_matcher
    for name, child in model.named_children():
        without_matcher.add_module(name, child)
    without_matcher.feature_info = model.feature_info
    stages = [[p for p in used if p.startswith((f"stages.{i}.", *(["stem."] if i == 0 else [])))] for i in range(4)]
    assert [set(group) for group in layer_groups(without_matcher, used)] == [set(stage) for stage in stages]
