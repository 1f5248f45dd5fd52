"""`finetune list`."""

import pytest

from finetune.catalog.backbones import select
from finetune.commands.list_models import backbone_rows, heads, list_models
from finetune.config.errors import ConfigError
from finetune.models import HEADS
from finetune.models.instance_heads import INSTANCE_HEADS
from tests.samples import exit_code


def test_backbones_are_listed_with_their_properties(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("list", "backbones", "resnet[13][84]", "pretrained=true") == 0
    header, *rows, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["backbone", "parameters", "strides", "weights", "pixels", "license"]
    assert [row.split()[:3] for row in rows] == [["resnet18", "11.7", "M"], ["resnet34", "21.8", "M"]]
    assert last.startswith("2 of 1,371 backbones; backbone=timm backbone.name=NAME takes one")


def test_a_single_backbone_is_listed_with_all_its_weights(capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = select("resnet50")
    assert len(one.weights) > 5
    assert [row[3] for row in backbone_rows(one)] == [f"{one.weights[0].tag} (+{len(one.weights) - 1})"]
    assert list_models("name=resnet50") == ["resnet50"]
    rows = capsys.readouterr().out.splitlines()[1:-1]
    assert [row.split()[-3] for row in rows] == [weights.tag for weights in one.weights]


def test_every_head_is_listed_with_a_description(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_models("what=heads") == sorted([*HEADS, *INSTANCE_HEADS])
    out = capsys.readouterr().out
    assert all(f"\n{head} " in out for head in HEADS)
    assert all(len(line) > 20 for line in heads().values())


def test_a_pattern_filters_heads_too() -> None:
    assert list_models("what=heads", "name=unet*") == ["unet", "unetplusplus"]


def test_a_head_filters_backbones() -> None:
    found = list_models("with_head=segnet")
    assert {"vgg11", "vgg16_bn"} <= set(found)
    assert "resnet50" not in found


def test_an_empty_result_suggests_a_wider_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_models("name=convnext") == []
    assert capsys.readouterr().out == "0 of 1,371 backbones. '*convnext*' would be those with convnext in their name\n"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["what=head"], "'head' cannot be listed. Choose finetune list backbones"),
        (["what=heads", "parameters=3"], "parameters filters backbones only"),
        (["with_head=unett"], "with_head=unett: no such head. Did you mean unet"),
        (["parameters=[3]"], r"parameters=\[3\]: expected a number"),
    ],
)
def test_an_invalid_listing_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list_models(*overrides)


def test_several_patterns_are_refused_with_the_advice_to_quote(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("list", "backbones", "a.jpg", "b.jpg") == 2
    assert "finetune list takes one name, got several: a.jpg b.jpg. Quote a pattern" in capsys.readouterr().err
