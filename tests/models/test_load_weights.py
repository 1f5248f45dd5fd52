"""Each name of a weights file is loaded, logged, or an error."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import timm
import torch

from finetune.models import Backbone, WeightsError, load_weights
from tests.models.sampling import slow_unless

TINY = "test_resnet.r160_in1k"
State = dict[str, torch.Tensor]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Messages of the log, independent of the logging configuration."""
    messages: list[str] = []
    monkeypatch.setattr(load_weights.logger, "info", lambda text, *values: messages.append(text % values))
    return messages


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Backbone]:
    """Return a function that builds a backbone with the weights of a file that contains the state dict."""

    def from_file(name: str, state: State, **options: Any) -> Backbone:
        torch.save(state, tmp_path / "mine.pth")
        return Backbone(name, str(tmp_path / "mine.pth"), **options)

    return from_file


def random_state(name: str, **options: Any) -> State:
    model = timm.create_model(name, **options)
    return {key: torch.rand_like(t) if t.is_floating_point() else t for key, t in model.state_dict().items()}


def is_loaded(backbone: Backbone, state: State) -> bool:
    """Return whether the model has exactly these tensors."""
    own = backbone.model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def without(state: State, *names: str) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith(names)}


def test_missing_and_unexpected_names_are_counted_and_listed(load: Callable[..., Backbone]) -> None:
    state = without(random_state(TINY), "layer2.0.conv1.weight", "bn1.")
    state |= {f"neck.{i}.weight": torch.zeros(1) for i in range(7)}
    with pytest.raises(WeightsError) as error:
        load(TINY, state)
    misfit, _, advice = str(error.value).partition(f"mine.pth' do not fit {TINY}: ")[2].partition(". ")
    assert misfit == (
        "5 of 77 names are missing: bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var, layer2.0.conv1.weight; "
        "7 unexpected: neck.0.weight, neck.1.weight, neck.2.weight, neck.3.weight, neck.4.weight and 2 more"
    )
    assert re.fullmatch(r"Set backbone\.name to .* names of timm\.create_model\('.*'\)\.state_dict\(\)\.", advice)


def test_tensors_of_another_shape_are_listed_with_both_shapes(load: Callable[..., Backbone]) -> None:
    state = random_state(TINY) | {"layer2.0.conv1.weight": torch.zeros(48, 32, 1, 1)}
    with pytest.raises(
        WeightsError,
        match=r": 1 of another shape: layer2\.0\.conv1\.weight \(48, 32, 1, 1\) for \(48, 32, 3, 3\)\. Set",
    ):
        load(TINY, state)


@pytest.mark.parametrize("classes", [0, 7])
def test_another_number_of_classes_hides_no_missing_layer(classes: int, load: Callable[..., Backbone]) -> None:
    state = without(random_state(TINY), "layer2.0.conv1.weight") | {"extra": torch.zeros(1)}
    with pytest.raises(
        WeightsError, match=r"1 of 75 names are missing: layer2\.0\.conv1\.weight; 1 unexpected: extra\."
    ):
        load(TINY, state, options={"num_classes": classes})


def test_a_stem_that_timm_cannot_adapt_hides_no_missing_layer(
    load: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise NotImplementedError

    monkeypatch.setattr("timm.models._builder.adapt_input_conv", refuse)
    state = random_state(TINY)
    other = r"1 of another shape: conv1\.0\.weight \(16, 3, 3, 3\) for \(16, 4, 3, 3\)\."
    with pytest.raises(WeightsError, match=rf"do not fit {TINY}: {other}"):
        load(TINY, state, in_channels=4)
    with pytest.raises(WeightsError, match=rf": 1 of 77 names are missing: layer2\.0\.conv1\.weight; {other}"):
        load(TINY, without(state, "layer2.0.conv1.weight"), in_channels=4)


# one model per way in which timm ignores missing names, made small by options
LENIENT: dict[str, dict[str, Any]] = {
    "dla46_c": {},
    "dla60_res2net": {},
    "vit_base_patch16_siglip_gap_224": {"embed_dim": 64, "depth": 2, "num_heads": 2},
    "davit_base_fl": {"embed_dims": (32, 32, 32, 32), "num_heads": (1, 1, 1, 1)},
}


QUICK_LENIENT = ["dla46_c", "vit_base_patch16_siglip_gap_224"]


@pytest.mark.parametrize("name", slow_unless(QUICK_LENIENT, LENIENT))
def test_missing_names_are_an_error_even_if_timm_would_ignore_them(name: str, load: Callable[..., Backbone]) -> None:
    options = LENIENT[name]
    state = random_state(name, **options)
    assert is_loaded(load(name, state, options=options), state)
    kernels = [key for key, tensor in state.items() if key.endswith("weight") and tensor.ndim > 1]
    missing = kernels[len(kernels) // 2]
    renamed = {f"typo.{key}" if key == missing else key: tensor for key, tensor in state.items()}
    with pytest.raises(
        WeightsError, match=rf"do not fit {name}: 1 of \d+ names are missing: {re.escape(missing)}; 1 un"
    ):
        load(name, renamed, options=options)


@pytest.mark.parametrize("name", slow_unless(QUICK_LENIENT, LENIENT))
def test_weights_of_another_model_are_an_error_even_if_timm_would_ignore_them(
    name: str, load: Callable[..., Backbone]
) -> None:
    with pytest.raises(WeightsError, match=rf"do not fit {name}: \d+ of \d+ names are missing: .* and \d+ more; "):
        load(name, random_state("test_efficientnet"), options=LENIENT[name])


def test_a_norm_of_the_classifier_that_timms_weights_lack_may_be_missing(load: Callable[..., Backbone]) -> None:
    options = LENIENT["davit_base_fl"]
    state = without(random_state("davit_base_fl", **options), "head.")
    backbone = load("davit_base_fl", state, options=options)
    assert all(torch.equal(backbone.model.state_dict()[key], tensor) for key, tensor in state.items())


def test_missing_names_of_downloaded_weights_are_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    state = without(random_state("dla46_c"), "level3.tree1.tree1.conv1.weight")
    monkeypatch.setattr("finetune.models.timm_factory.pretrained_arguments", lambda name, weights: {"pretrained": True})
    monkeypatch.setattr("timm.models._builder._resolve_pretrained_source", lambda config: ("state_dict", state))
    with pytest.raises(WeightsError, match=r"1 of \d+ names are missing: level3\.tree1\.tree1\.conv1\.weight"):
        Backbone("dla46_c")


CLASSIFIERS = [TINY, "deit_tiny_distilled_patch16_224", "levit_128s", "test_convnext"]


@pytest.mark.parametrize("name", slow_unless([TINY, "levit_128s"], CLASSIFIERS))
def test_a_classifier_of_other_classes_is_loaded_and_logged(
    name: str, load: Callable[..., Backbone], logged: list[str]
) -> None:
    state = random_state(name, num_classes=10)
    backbone = load(name, state)
    assert is_loaded(backbone, state)
    assert backbone.options["num_classes"] == 10
    assert [text.partition("mine.pth' ")[2] for text in logged] == [
        "have a classifier of 10 classes instead of 1000; segmentation uses none"
    ]


@pytest.mark.parametrize("name", slow_unless([TINY, "deit_tiny_distilled_patch16_224"], CLASSIFIERS))
def test_weights_without_a_classifier_are_loaded_and_logged(
    name: str, load: Callable[..., Backbone], logged: list[str]
) -> None:
    state = random_state(name, num_classes=0)
    backbone = load(name, state)
    assert is_loaded(backbone, state)
    assert [text.partition("mine.pth' ")[2] for text in logged] == ["have no classifier; segmentation uses none"]


@pytest.mark.parametrize(
    ("name", "removed", "ignored"),
    [
        (TINY, "fc.weight", "fc.bias"),
        ("deit_tiny_distilled_patch16_224", "head_dist.", "head.weight, head.bias"),
        ("levit_128s", "head_dist.", "head.bn.weight, head.bn.bias, head.bn.running_mean, .* and 2 more"),
    ],
)
def test_a_part_of_a_classifier_is_ignored_and_logged(
    name: str, removed: str, ignored: str, load: Callable[..., Backbone], logged: list[str]
) -> None:
    state = without(random_state(name), removed)
    backbone = load(name, state)
    assert is_loaded(backbone, without(state, "fc.", "head.", "head_dist."))
    (text,) = logged
    assert re.search(rf"the classifier is not loaded: {ignored}", text)


def test_the_classifier_is_not_loaded_into_a_model_without_one(
    load: Callable[..., Backbone], logged: list[str]
) -> None:
    state = random_state(TINY)
    backbone = load(TINY, state, options={"num_classes": 0})
    assert is_loaded(backbone, without(state, "fc."))
    assert logged[0].endswith("the classifier is not loaded: fc.weight, fc.bias")


def test_weights_that_fit_are_not_logged(load: Callable[..., Backbone], logged: list[str]) -> None:
    state = random_state(TINY)
    assert is_loaded(load(TINY, state), state)
    assert logged == []


def test_counters_of_batch_norms_may_be_missing(load: Callable[..., Backbone], logged: list[str]) -> None:
    state = {key: tensor for key, tensor in random_state(TINY).items() if "num_batches" not in key}
    backbone = load(TINY, state)
    assert all(torch.equal(backbone.model.state_dict()[key], tensor) for key, tensor in state.items())
    assert logged == []


@pytest.mark.parametrize("dropped", ["pre_logits.fc.weight", "mask_token"])
def test_names_that_timm_ignores_are_logged(dropped: str, load: Callable[..., Backbone], logged: list[str]) -> None:
    state = random_state("test_vit")
    backbone = load("test_vit", {**state, dropped: torch.zeros(3)})
    assert is_loaded(backbone, state)
    (text,) = logged
    assert text.endswith(f"timm translated or ignored 1 of {len(state) + 1} names: {dropped}")


def test_names_of_another_toolkit_are_translated_by_timm_and_logged(
    load: Callable[..., Backbone], logged: list[str]
) -> None:
    state = random_state("test_convnext")
    patterns = {  # from timm's names to the names of ConvNeXt's authors
        r"^stem\.": "downsample_layers.0.",
        r"^stages\.(\d+)\.blocks\.": r"stages.\1.",
        r"^stages\.(\d+)\.downsample\.": r"downsample_layers.\1.",
        r"conv_dw": "dwconv",
        r"mlp\.fc": "pwconv",
        r"^head\.norm\.": "norm.",
    }
    theirs = {}
    for key, tensor in without(state, "head.fc.").items():
        for ours, other in patterns.items():
            key = re.sub(ours, other, key)
        theirs[key] = tensor
    assert is_loaded(load("test_convnext", theirs), without(state, "head.fc."))
    assert re.search(r"timm translated or ignored \d\d of \d\d names: downsample_layers\.0", logged[-1])


def test_the_error_for_a_failing_translation_lists_the_names(load: Callable[..., Backbone]) -> None:
    state = random_state("test_vit") | {"visual.trunk.pos_embed": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"do not fit test_vit: 1 unexpected: visual\.trunk\.pos_embed\. Set"):
        load("test_vit", state)


def test_weights_for_other_channels_tell_to_set_them(load: Callable[..., Backbone]) -> None:
    with pytest.raises(WeightsError, match=r"are for images of 4 channels\. Set backbone\.in_channels=4, or take"):
        load("test_resnet", random_state("test_resnet", in_chans=4))


def test_the_error_for_an_unknown_option_does_not_blame_the_weights(load: Callable[..., Backbone]) -> None:
    with pytest.raises(ValueError, match=r"backbone\.options=.*bogus.* do not fit"):
        load(TINY, random_state(TINY), options={"bogus": 1})


def test_map_weights_of_a_missing_classifier_are_unused(load: Callable[..., Backbone]) -> None:
    backbone = load("efficientvim_m1", random_state("efficientvim_m1", num_classes=0))
    assert "model.weights" in backbone.unused_parameters()  # weight the maps in its classifier
    sum(feature.square().sum() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert {key for key, p in backbone.named_parameters() if p.grad is None} == backbone.unused_parameters()
