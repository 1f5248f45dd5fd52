"""The catalog of backbones against timm."""

from collections.abc import Sequence
from typing import Any

import pytest
import timm
import torch

from finetune import list_backbones
from finetune.catalog.backbones import Entry, Range, entries, parse_range, select
from finetune.models import HEADS, Backbone

CATALOG_TIMM = "1.0.31"  # version of timm that the catalog was written with; `make coverage` rewrites it


def entry(name: str) -> Entry:
    (backbone,) = select(name)
    return backbone


@pytest.mark.skipif(timm.__version__ != CATALOG_TIMM, reason=f"the catalog is that of timm {CATALOG_TIMM}")
def test_every_backbone_of_timm_is_in_the_catalog() -> None:
    assert [e.name for e in entries()] == sorted(timm.list_models())


@pytest.mark.skipif(timm.__version__ != CATALOG_TIMM, reason=f"the catalog is that of timm {CATALOG_TIMM}")
def test_all_pretrained_weights_of_timm_are_in_the_catalog() -> None:
    listed = {f"{e.name}.{w.tag}" if w.tag else e.name for e in entries() for w in e.weights}
    assert listed == set(timm.list_pretrained())
    for e in entries():
        default = timm.get_pretrained_cfg(e.name)
        if e.weights and default.has_weights:
            assert (e.weights[0].tag, e.weights[0].size) == (default.tag, default.input_size[-1]), e.name


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "vit_tiny_patch16_224", "mobilenetv3_small_050", "vgg11"])
def test_the_catalog_agrees_with_the_backbone(name: str) -> None:
    with torch.device("meta"):
        backbone, timm_model = Backbone(name, "none"), timm.create_model(name)
    listed = entry(name)
    assert listed.parameters == sum(p.numel() for p in timm_model.parameters())
    assert listed.strides == backbone.strides
    assert (listed.stages, listed.blocks) == tuple(len(backbone.layer_groups(fine)) for fine in (False, True))
    assert listed.without == (() if backbone.pools else ("segnet",))


def test_at_least_1340_backbones_support_every_head_that_needs_no_pooling_indices() -> None:
    assert sum(set(e.without) <= {"segnet"} for e in entries()) >= 1340
    assert {head for e in entries() for head in e.without} <= set(HEADS)


def test_selected_backbones_pass_all_filters() -> None:
    selected = select("*net*", parameters=[2, 6], strides=[2, 4, 8, 16, 32], license="apache", input_size=[200, 250])
    assert selected
    for e in selected:
        assert "net" in e.name
        assert 2e6 <= e.parameters <= 6e6
        assert e.strides == (2, 4, 8, 16, 32)
        assert all(w.license.startswith("apache") and 200 <= w.size <= 250 for w in e.weights)
        assert e.weights


def test_every_backbone_either_has_weights_or_has_none() -> None:
    with_weights, without = list_backbones(pretrained=True), list_backbones(pretrained=False)
    assert sorted(with_weights + without) == list_backbones()
    assert "resnet18" in with_weights
    assert "test_resnet" in with_weights


def test_the_filter_by_head_selects_backbones_that_support_it() -> None:
    assert list_backbones(with_head="segnet") == list_backbones("vgg*")
    with pytest.raises(ValueError, match=r"with_head=unett: no such head\. Did you mean unet"):
        list_backbones(with_head="unett")


@pytest.mark.parametrize(
    ("value", "lowest", "expected"),
    [(30, 0, (0, 30)), (0.5, 0, (0, 0.5)), (224, None, (224, 224)), ([5, 9], 0, (5, 9)), (None, 0, (0, float("inf")))],
)
def test_a_number_or_none_is_a_range(value: Range, lowest: float | None, expected: tuple[float, float]) -> None:
    assert parse_range("parameters", value, lowest) == expected


@pytest.mark.parametrize("value", [[3], [1, 2, 3], "many", True, ["a", "b"], [30, 20], {}])
def test_an_invalid_range_is_rejected(value: Sequence[Any]) -> None:
    with pytest.raises(ValueError, match=r"parameters=.*: expected a number, or a range such as \[20,30\]"):
        select(parameters=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"strides": 32}, r"strides=32: expected the strides of all feature maps, such as \[4,8,16,32\]"),
        ({"strides": "all"}, "strides=all: expected"),
        ({"license": 3}, "license=3: expected a license"),
        ({"pretrained": "maybe"}, "pretrained=maybe: expected true or false"),
        ({"pretrained": 1}, "pretrained=1: expected true or false"),
    ],
)
def test_a_filter_of_the_wrong_type_is_rejected(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(**filters)


def test_a_pattern_may_include_the_tag_of_the_weights() -> None:
    backbone = entry("convnext_tiny.in12k*")
    assert backbone.name == "convnext_tiny"
    assert {w.tag for w in backbone.weights} == {"in12k", "in12k_ft_in1k", "in12k_ft_in1k_384"}
    assert select("*.no_such_tag") == []


def test_the_filter_by_license_ignores_case() -> None:
    assert select("resnet18", license="Apache") == select("resnet18", license="apache")
    assert select("resnet18", license="Apache")
