"""The words that select parameters, against lists written by hand."""

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
def places() -> dict[str, ParameterInfo]:
    return parameter_infos({name: torch.empty(SHAPES[name.rpartition(".")[2]]) for name in NAMES}, LAYERS)


def selected(places: dict[str, ParameterInfo], text: str) -> str:
    """Names without part and ending, such as `stem a b`, each once."""
    taken = [name for name, place in places.items() if Selector(text).takes(name, place)]
    return " ".join(dict.fromkeys(name.split(".")[1] for name in taken))


def test_places_know_part_layer_and_size(places: dict[str, ParameterInfo]) -> None:
    assert places["backbone.a.weight"] == ParameterInfo("backbone", 1, 4, 4, 72)
    assert places["head.0.bias"] == ParameterInfo("head", 4, 4, 1, 4)
    assert [places[name].label for name in NAMES[1:3]] == ["backbone[0]", "backbone[1]"]
    assert places["head.0.bias"].label == "head"


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
def test_words_select_what_they_say(places: dict[str, ParameterInfo], text: str, expected: str) -> None:
    assert selected(places, text) == expected


@pytest.mark.parametrize("text", ["backbone[-5:]", "backbone[:5]", "backbone[9]", "backbone[-9]"])
def test_more_layer_groups_than_there_are_is_an_error(places: dict[str, ParameterInfo], text: str) -> None:
    with pytest.raises(PlanError, match=r"more layer groups than the backbone has: 4\. Choose bounds from -4 to 4"):
        selected(places, text)


@pytest.mark.parametrize("text", ["backbone[]", "backbone[a]", "backbone[1:2:3]", "head[0]", "decoder[-1:]"])
def test_words_that_are_no_slice_are_refused_at_once(text: str) -> None:
    with pytest.raises(PlanError, match=r"is no slice of layer groups. Write backbone\[-2:\]"):
        Selector(text)


def test_other_words_are_a_regular_expression() -> None:
    place = ParameterInfo("backbone", 0, 1, 4, 1)
    assert Selector(r"layer[34]\.").takes("backbone.model.layer4.0.weight", place)
    assert not Selector(r"^layer4").takes("backbone.model.layer4.0.weight", place)
    assert not Selector("head").takes("backbone.model.head.weight", place)
    assert Selector("backbone.model.head").takes("backbone.model.head.weight", place)


def test_a_parameter_of_the_backbone_outside_its_layers_is_an_error() -> None:
    with pytest.raises(PlanError, match=r"1 parameters of the backbone are in none of its layer groups: backbone\.x"):
        parameter_infos({"backbone.x": torch.zeros(1), "backbone.y": torch.zeros(1)}, [["backbone.y"]])
