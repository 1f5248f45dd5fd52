"""The table of backbones, against timm itself."""

from collections.abc import Sequence
from typing import Any

import pytest
import timm

from finetune import list_backbones
from finetune.catalog.backbones import Entry, Range, entries, limits, select
from finetune.models import HEADS, Backbone

TRIED_WITH = "1.0.31"  # timm, by which the table was written; `make coverage` writes it anew


def entry(name: str) -> Entry:
    (found,) = select(name)
    return found


@pytest.mark.skipif(timm.__version__ != TRIED_WITH, reason=f"the table is of timm {TRIED_WITH}")
def test_every_backbone_of_timm_is_in_the_table() -> None:
    assert [e.name for e in entries()] == sorted(timm.list_models())


@pytest.mark.skipif(timm.__version__ != TRIED_WITH, reason=f"the table is of timm {TRIED_WITH}")
def test_all_pretrained_weights_of_timm_are_in_the_table() -> None:
    listed = {f"{e.name}.{w.tag}" if w.tag else e.name for e in entries() for w in e.weights}
    assert listed == set(timm.list_pretrained())
    for e in entries():
        default = timm.get_pretrained_cfg(e.name)
        if e.weights and default.has_weights:
            assert (e.weights[0].tag, e.weights[0].size) == (default.tag, default.input_size[-1]), e.name


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "vit_tiny_patch16_224", "mobilenetv3_small_050", "vgg11"])
def test_the_table_says_of_a_backbone_what_it_is(name: str) -> None:
    backbone, found = Backbone(name, "none"), entry(name)
    assert found.parameters == sum(p.numel() for p in timm.create_model(name).parameters())
    assert found.strides == backbone.strides
    assert (found.stages, found.blocks) == tuple(len(backbone.layer_groups(fine)) for fine in (False, True))
    assert found.without == (() if backbone.pools else ("segnet",))


def test_at_least_1340_backbones_take_every_head_that_needs_no_pooling_indices() -> None:
    assert sum(set(e.without) <= {"segnet"} for e in entries()) >= 1340
    assert {head for e in entries() for head in e.without} <= set(HEADS)


def test_filters_leave_what_has_all_that_is_asked_for() -> None:
    found = select("*net*", parameters=[2, 6], strides=[2, 4, 8, 16, 32], license="apache", input_size=[200, 250])
    assert found
    for e in found:
        assert "net" in e.name
        assert 2e6 <= e.parameters <= 6e6
        assert e.strides == (2, 4, 8, 16, 32)
        assert all(w.license.startswith("apache") and 200 <= w.size <= 250 for w in e.weights)
        assert e.weights


def test_some_have_weights_and_some_have_none() -> None:
    with_weights, without = list_backbones(pretrained=True), list_backbones(pretrained=False)
    assert sorted(with_weights + without) == list_backbones()
    assert "resnet18" in with_weights
    assert "test_resnet" in with_weights


def test_those_that_a_head_fits_on() -> None:
    assert list_backbones(head="segnet") == list_backbones("vgg*")


@pytest.mark.parametrize(
    ("given", "least", "expected"),
    [(30, 0, (0, 30)), (0.5, 0, (0, 0.5)), (224, None, (224, 224)), ([5, 9], 0, (5, 9)), (None, 0, (0, float("inf")))],
)
def test_a_number_is_a_range(given: Range, least: float | None, expected: tuple[float, float]) -> None:
    assert limits("parameters", given, least) == expected


@pytest.mark.parametrize("given", [[3], [1, 2, 3], "many", True, ["a", "b"], [30, 20], {}])
def test_anything_else_is_no_range(given: Sequence[Any]) -> None:
    with pytest.raises(ValueError, match=r"parameters=.*: expected a number, or a range such as \[20,30\]"):
        select(parameters=given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"strides": 32}, r"strides=32: expected those of all maps, such as \[4,8,16,32\]"),
        ({"strides": "all"}, "strides=all: expected"),
        ({"license": 3}, "license=3: expected a name"),
        ({"pretrained": "maybe"}, "pretrained=maybe: expected true or false"),
        ({"pretrained": 1}, "pretrained=1: expected true or false"),
    ],
)
def test_a_filter_of_another_kind_is_refused_and_not_passed_over(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(**filters)


def test_a_pattern_may_speak_of_the_weights_too() -> None:
    (found,) = select("convnext_tiny.in12k*")
    assert found.name == "convnext_tiny"
    assert {w.tag for w in found.weights} == {"in12k", "in12k_ft_in1k", "in12k_ft_in1k_384"}
    assert select("*.no_such_tag") == []


def test_a_license_is_found_however_it_is_written() -> None:
    assert select("resnet18", license="Apache") == select("resnet18", license="apache")
    assert select("resnet18", license="Apache")
