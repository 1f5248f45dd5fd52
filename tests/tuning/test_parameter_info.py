"""Selectors of parameters against lists written by hand."""

import pytest
import torch

from finetune.tuning.parameter_info import ParameterInfo, PlanError, Selector, parameter_infos

LAYERS = [
    ["backbone.stem.weight", "backbone.stem.bias"],
    ["backbone.a.weight"],
    ["backbone.b.weight"],
    ["backbone.c.bias"],
]
SHAPES = {"weight": (4, 2, 3, 3), "bias": (4,)}
NAMES = [name for group in LAYERS for name in group] + ["decoder.up.weight", "head.0.weight", "head.0.bias"]


@pytest.fixture(scope="module")
def infos() -> dict[str, ParameterInfo]:
    return parameter_infos({name: torch.empty(SHAPES[name.rpartition(".")[2]]) for name in NAMES}, LAYERS)


def selected(infos: dict[str, ParameterInfo], text: str) -> str:
    """Return the matched names without part and suffix, such as `stem a b`, each once."""
    matched = [name for name, info in infos.items() if Selector(text).matches(name, info)]
    return " ".join(dict.fromkeys(name.split(".")[1] for name in matched))


def test_each_parameter_has_its_part_layer_and_size(infos: dict[str, ParameterInfo]) -> None:
    assert infos["backbone.a.weight"] == ParameterInfo("backbone", 1, 4, 4, 72)
    assert infos["head.0.bias"] == ParameterInfo("head", 4, 4, 1, 4)
    assert [infos[name].label for name in NAMES[1:3]] == ["backbone[0]", "backbone[1]"]
    assert infos["head.0.bias"].label == "head"


def test_the_pyramid_of_a_model_of_objects_is_a_part() -> None:
    names = ["fpn.lateral.weight", "fpn.lateral.bias", "head.fpn.bias"]
    infos = parameter_infos({name: torch.empty(SHAPES[name.rpartition(".")[2]]) for name in names})
    for text, expected in (("fpn", names[:2]), ("fpn.norms_and_biases", names[1:2])):
        assert [name for name, info in infos.items() if Selector(text).matches(name, info)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backbone", "stem a b c"),
        ("head", "0"),
        ("backbone[-2:]", "b c"),
        ("backbone[:1]", "stem"),
        ("backbone[1:3]", "a b"),
        ("backbone[:-1]", "stem a b"),
        ("backbone[-1]", "c"),
        ("backbone[0]", "stem"),
        ("backbone[:]", "stem a b c"),
        ("norms_and_biases", "stem c 0"),
        ("backbone.norms_and_biases", "stem c"),
        ("backbone[-1].norms_and_biases", "c"),
        ("backbone[1].norms_and_biases", ""),
        (r"\.(a|up)\.", "a up"),
        ("stem", "stem"),
        (".", "stem a b c up 0"),
    ],
)
def test_selectors_match_the_expected_parameters(infos: dict[str, ParameterInfo], text: str, expected: str) -> None:
    assert selected(infos, text) == expected


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("backbone[-5:]", "bounds from -4 to 4"),
        ("backbone[:5]", "bounds from -4 to 4"),
        ("backbone[4]", "one from -4 to 3"),
        ("backbone[-9]", "one from -4 to 3"),
    ],
)
def test_selecting_more_layer_groups_than_there_are_is_an_error(
    infos: dict[str, ParameterInfo], text: str, choice: str
) -> None:
    with pytest.raises(PlanError, match=rf"more layer groups than the backbone has: 4\. Choose {choice}"):
        selected(infos, text)


@pytest.mark.parametrize("text", ["backbone[]", "backbone[a]", "backbone[1:2:3]", "head[0]", "decoder[-1:]"])
def test_an_invalid_slice_is_rejected_at_once(text: str) -> None:
    with pytest.raises(PlanError, match=r"is not a valid slice of layer groups. Write backbone\[-2:\]"):
        Selector(text)


def test_any_other_text_is_a_regular_expression() -> None:
    info = ParameterInfo("backbone", 0, 1, 4, 1)
    assert Selector(r"layer[34]\.").matches("backbone.model.layer4.0.weight", info)
    assert not Selector(r"^layer4").matches("backbone.model.layer4.0.weight", info)
    assert not Selector("head").matches("backbone.model.head.weight", info)
    assert Selector("backbone.model.head").matches("backbone.model.head.weight", info)


def test_a_backbone_parameter_in_no_layer_group_is_an_error() -> None:
    with pytest.raises(PlanError, match=r"1 parameters of the backbone are in none of its layer groups: backbone\.x"):
        parameter_infos({"backbone.x": torch.zeros(1), "backbone.y": torch.zeros(1)}, [["backbone.y"]])
