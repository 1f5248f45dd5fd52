"""Hostile files: each is refused with an error that names it, or is harmless: no code runs and memory stays bounded."""

import json
import os
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import save_file

import finetune
from finetune.checkpoints.checkpoint_io import find_corruption
from finetune.checkpoints.saved_model import ModelError, load_model, save_model
from finetune.data import DataError, read_image, read_mask
from finetune.io.safe_files import FileError, check_plain, read_tensors
from finetune.models import Segmenter, WeightsError
from finetune.models.weights import pretrained_arguments, read_file
from finetune.profiling.memory import peak, reset_peak, resident
from tests.end_to_end import hostile

TINY = "test_resnet.r160_in1k"
MB = 2**20


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Return the file that a payload creates."""
    return tmp_path / "canary"


@pytest.fixture(scope="module")
def model() -> Segmenter:
    small = {"pyramid_channels": 32, "segmentation_channels": 32}
    return Segmenter(TINY, "fpn", 2, weights="none", head_options=small).eval()


@pytest.fixture
def folder(model: Segmenter, tmp_path: Path) -> Path:
    save_model(tmp_path / "run" / "model", model, {}, {})
    return tmp_path / "run" / "model"


@pytest.fixture
def checkpoint(model: Segmenter, tmp_path: Path) -> Path:
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    return hostile.write({"state_dict": state, "model_config": model.config()}, tmp_path / "intact.ckpt")


@contextmanager
def little_memory(most: int = 200 * MB) -> Iterator[None]:
    """Fail if the process takes much more memory than before, if the system can measure it."""
    before = resident() if reset_peak() else None
    yield
    if before is not None:
        assert (peak() or 0) - before < most


def edit(folder: Path, **changes: Any) -> None:
    """Change the model in `config.json`."""
    config = json.loads((folder / "config.json").read_text())
    config["model"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))


# payloads


UNSAFE = """
import sys, torch
for path in sys.argv[1:]:
    try:
        torch.load(path, weights_only=False)
    except Exception as error:
        print(path, repr(error))
"""


def test_every_payload_runs_in_an_unsafe_reader(tmp_path: Path) -> None:
    canaries = {(kind, form): tmp_path / f"{kind}_{form}" for kind in hostile.KINDS for form in ("zip", "legacy")}
    files = [
        hostile.write({"x": hostile.payload(kind, canary)}, tmp_path / f"{canary.name}.pth", form)
        for (kind, form), canary in canaries.items()
    ]
    assert not any(canary.exists() for canary in canaries.values())
    result = subprocess.run([sys.executable, "-c", UNSAFE, *files], capture_output=True, text=True, timeout=500)
    assert [key for key, canary in canaries.items() if not canary.exists()] == [], result.stdout + result.stderr


@pytest.mark.parametrize("form", hostile.FORMS)
@pytest.mark.parametrize("kind", hostile.KINDS)
def test_a_checkpoint_with_a_payload_is_refused(kind: str, form: str, canary: Path, tmp_path: Path) -> None:
    content = {"state_dict": {"model.x": hostile.payload(kind, canary)}, "model_config": {}}
    path = hostile.write(content, tmp_path / "best.ckpt", form)
    with pytest.raises(ModelError, match=r"best\.ckpt' cannot be read: it is no plain data"):
        load_model(path)
    assert not canary.exists()


PLACES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda payload: payload,
    "beside the weights": lambda payload: {"state_dict": {}, "model_config": {}, "callbacks": payload},
    "in the optimizer": lambda payload: {"optimizer_states": [{"state": {0: {"exp_avg": payload}}}]},
    "in the config": lambda payload: {"state_dict": {}, "model_config": {"backbone": [{"name": (payload,)}]}},
    "after a tensor": lambda payload: {"state_dict": {"a": torch.zeros(3), "b": payload}},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_payload_is_refused_at_any_place_without_advice_to_read_it(place: str, canary: Path, tmp_path: Path) -> None:
    path = hostile.write(PLACES[place](hostile.payload("os.system", canary)), tmp_path / "last.ckpt")
    with pytest.raises(ModelError, match=r"last\.ckpt' cannot be read.*would call '(posix|nt)\.system'") as error:
        load_model(path)
    assert "weights_only" not in str(error.value)
    assert not canary.exists()


@pytest.mark.parametrize("form", hostile.FORMS)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_weights_with_a_payload_are_refused_whatever_the_environment(
    name: str, form: str, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    content = {"state_dict": {"conv1.weight": hostile.payload("os.system", canary)}}
    path = hostile.write(content, tmp_path / name, form)
    with pytest.raises(WeightsError, match=f"{name}' as plain tensors"):
        pretrained_arguments(TINY, str(path))
    assert not canary.exists()


def test_a_run_folder_with_a_payload_is_refused(canary: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    hostile.write(hostile.payload("torch.hub", canary), tmp_path / "run" / "checkpoints" / "best.ckpt")
    with pytest.raises(ModelError, match=r"best\.ckpt"):
        finetune.load(tmp_path / "run")
    assert not canary.exists()


READERS: dict[str, Callable[[Path], Any]] = {
    "last.ckpt": load_model,
    "weights.pth": partial(read_file, name=TINY),
    "weights.safetensors": partial(read_file, name=TINY),
    "photo.png": read_image,
    "mask.png": read_mask,
}


@pytest.mark.parametrize("name", READERS)
def test_an_array_of_objects_under_another_name_is_refused(name: str, canary: Path, tmp_path: Path) -> None:
    path = hostile.disguised_npy(hostile.payload("os.system", canary), tmp_path / name)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        READERS[name](path)
    assert not canary.exists()


# bombs


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    stored = hostile.write({"x": torch.zeros(4_000_000)}, tmp_path / "stored.pth")
    path = hostile.compressed(stored, tmp_path / "bomb.pth")
    assert path.stat().st_size * 100 < torch.load(path, weights_only=True)["x"].nbytes  # torch decompresses it
    with pytest.raises(WeightsError, match=r"bomb\.pth' as plain tensors: .*: its entry '.*' is compressed"):
        read_file(path, TINY)


def test_a_compressed_pickle_is_refused_without_decompressing_it(tmp_path: Path) -> None:
    path = hostile.zeros(tmp_path / "last.ckpt", 100 * MB)
    assert path.stat().st_size < MB
    with little_memory(50 * MB):
        assert "is compressed, from 104,857,600 bytes" in str(find_corruption(path))


def test_an_archive_whose_entries_are_marked_as_folders_is_refused(tmp_path: Path) -> None:
    original = hostile.write({"x": torch.ones(1000)}, tmp_path / "original.pth")
    path = hostile.marked_as_folders(original, tmp_path / "bomb.pth")
    with pytest.raises(WeightsError, match=r"bomb\.pth' as plain tensors: .*: its entry '.*' is marked as a folder"):
        read_file(path, TINY)


def test_an_archive_whose_entries_overlap_is_refused(tmp_path: Path) -> None:
    original = hostile.write({"x": torch.zeros(1000)}, tmp_path / "original.pth")
    path = hostile.overlapping(original, tmp_path / "bomb.pth", times=10)
    assert path.stat().st_size < 10_000
    with pytest.raises(WeightsError, match=r"bomb\.pth' as plain tensors: it is .*: its entries have 4\d,\d{3} bytes"):
        read_file(path, TINY)


def test_an_archive_in_which_python_and_torch_find_different_files_is_refused(tmp_path: Path) -> None:
    original = hostile.write({"x": torch.zeros(4_000_000)}, tmp_path / "original.pth")
    path = hostile.two_directories(original, tmp_path / "bomb.pth")
    with zipfile.ZipFile(path) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.testzip() is None
    assert len(torch.load(path, weights_only=True)["x"]) == 4_000_000
    assert torch._C.PyTorchFileReader(str(path)).get_record_offset("data/0") < 1000  # of the compressed entries
    with pytest.raises(WeightsError, match=r"bomb\.pth' as plain tensors: .*directory"):
        read_file(path, TINY)


@pytest.fixture(params=["zip", "legacy"])
def template(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a file of each format, whose pickle is replaced by a hostile one."""
    return hostile.write({"x": torch.zeros(1)} if request.param == "zip" else {}, tmp_path / "original", request.param)


@pytest.mark.parametrize("excess", hostile.EXCESSES)
def test_a_pickle_that_would_take_much_memory_or_time_is_refused(excess: str, template: Path, tmp_path: Path) -> None:
    path = hostile.with_pickle(template, tmp_path / "bomb.pth", hostile.EXCESSES[excess])
    assert path.stat().st_size < 500_000
    with little_memory(), pytest.raises(WeightsError, match=r"bomb\.pth' as plain tensors: it is no plain data: readi"):
        read_file(path, TINY)


def test_a_pickle_that_allocates_memory_is_refused(template: Path, tmp_path: Path) -> None:
    path = hostile.with_pickle(template, tmp_path / "bomb.pth", hostile.allocation(2_000_000_000))
    with little_memory(), pytest.raises(WeightsError, match=r"bomb\.pth' as plain tensors: .*'builtins\.bytearray'"):
        read_file(path, TINY)


def test_a_tensor_beyond_its_storage_is_refused_or_takes_no_memory(template: Path, tmp_path: Path) -> None:
    content = b"\x80\x02" + hostile.beyond_storage(500_000_000) + b"."
    path = hostile.with_pickle(template, tmp_path / "bomb.pth", content)
    with little_memory(), pytest.raises(WeightsError, match=r"bomb\.pth'"):
        read_file(path, TINY)


def test_a_tar_archive_of_the_oldest_torch_is_refused(tmp_path: Path) -> None:
    """The name of its first file is a file of a newer format."""
    newer = hostile.write({}, tmp_path / "pickle", "legacy").read_bytes()[:21] + b"\x80\x02}.\x80\x02}.\x80\x02]."
    with tarfile.open(tmp_path / "old.pth", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(newer.decode("utf-8", "surrogateescape")))
    assert (tmp_path / "old.pth").read_bytes().startswith(newer)
    with pytest.raises(WeightsError, match=r"old\.pth' as plain tensors: .*legacy \.tar format\.$"):
        read_file(tmp_path / "old.pth", TINY)


def test_a_config_of_shared_lists_is_refused(tmp_path: Path) -> None:
    config = {"backbone": TINY, "head": "fpn", "classes": hostile.shared_lists(60)}
    path = hostile.write({"state_dict": {}, "model_config": config}, tmp_path / "last.ckpt")
    assert path.stat().st_size < 5_000
    with little_memory(), pytest.raises(ModelError, match=r"last\.ckpt' cannot be read: model_config holds more than"):
        load_model(path)


def test_few_levels_of_wide_shared_lists_are_refused() -> None:
    wide = ["x"] * 10_000
    with little_memory(), pytest.raises(FileError, match="more than 20,000 values"):
        check_plain([[wide] * 10_000] * 10_000, Path("some.json"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000 + "]" * 100_000, "is no JSON|levels"),
        ("[" * 50 + "]" * 50, "more than 12 levels"),
        (json.dumps({"model": "x" * 300_000}), "it has 300,0.. bytes"),
        (json.dumps({"model": "x" * 5_000}), "a string of 5,000 characters"),
        (json.dumps({"model": {"x" * 5_000: 1}}), "a string of 5,000 characters"),
        (json.dumps([0] * 30_000), "more than 20,000 values"),
        ('{"format": ' + "9" * 10_000 + "}", "is no JSON"),
        ("\x00\xff", "is no JSON"),
    ],
)
def test_an_invalid_config_file_is_refused(text: str, reason: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with little_memory(), pytest.raises(ModelError, match=rf"config\.json' cannot be read: .*({reason})"):
        load_model(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 1_000_000_000},
        {"in_channels": 1_000_000_000},
        {"head_options": {"pyramid_channels": 1_000_000, "segmentation_channels": 32}},
        {"head_options": {"pyramid_channels": 32, "segmentation_channels": 32_000_000}},
        {"head": "unet", "head_options": {"decoder_channels": [10**6] * 5}},
        {"head": "deeplabv3plus", "head_options": {"atrous_rates": [1] * 10_000, "decoder_channels": 2048}},
        {"backbone": "convnext_xxlarge"},
        {"backbone_options": {"num_classes": 1_000_000_000}},
        {"backbone_options": {"layers": [10**9] * 4}},
        {"backbone_options": {"channels": [0, 0, 0, 0], "layers": [10**9] * 4}},
        {"backbone_options": {"stem_width": 10**9}},
    ],
    ids=str,
)
def test_a_config_of_a_model_larger_than_its_weights_file_is_refused(changes: dict[str, Any], folder: Path) -> None:
    edit(folder, **changes)
    with little_memory(), pytest.raises(ModelError, match=r"model\.safetensors' do not fit the model described there"):
        load_model(folder)


def test_a_model_with_a_huge_input_size_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_model(folder, Segmenter("xcit_nano_12_p8_224", "linear", weights="none"), {}, {})
    edit(folder, backbone_options={"img_size": 50_000})  # changes no weight
    with little_memory(), pytest.raises(ModelError, match=r"a tensor of 7,500,000,000 numbers, which makes more than"):
        load_model(folder)


def test_a_checkpoint_of_a_model_larger_than_its_file_is_refused(model: Segmenter, tmp_path: Path) -> None:
    config = {**model.config(), "backbone_options": {"num_classes": 1_000_000_000}}
    path = hostile.write({"state_dict": {}, "model_config": config}, tmp_path / "last.ckpt")
    with little_memory(), pytest.raises(ModelError, match=r"last\.ckpt' do not fit .* makes more than"):
        load_model(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": 7},
        {"backbone": None},
        {"backbone": ["resnet18"]},
        {"head": {}},
        {"classes": "sky"},
        {"classes": None},
        {"backbone_options": [1, 2]},
        {"backbone_options": {"block": "os.system"}},
        {"backbone_options": {"act_layer": "os.system"}},
        {"backbone_options": {"norm_layer": {"_target_": "os.system"}}},
        {"head_options": 3},
        {"in_channels": "three"},
        {"mean": [0.5, 0.5]},
        {"mean": "bright"},
        {"lora": {"rank": -1}},
        {"lora": {"rank": 10**9, "alpha": 1e400}},
    ],
    ids=str,
)
def test_invalid_settings_of_a_model_are_refused(changes: dict[str, Any], folder: Path) -> None:
    edit(folder, **changes)
    with pytest.raises(ModelError, match=r"model\.safetensors' do not fit the model described there"):
        load_model(folder)


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"a": hostile.tensor(0, 16, 4)}, 2**62),
        ({"a": hostile.tensor(0, 16, 4)}, 2**64 - 1),
        ({"a": hostile.tensor(0, 16, 4), "b": hostile.tensor(8, 24, 4)}, None),
        ({"a": hostile.tensor(16, 0, 4)}, None),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}, None),
        ({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}, None),
        ({"a": hostile.tensor(0, 16_000_000_000, 4_000_000_000)}, None),
        ({"a": hostile.tensor(0, 16, 2**62, 2**62)}, None),
        ({"a": hostile.tensor(0, 16, 400)}, None),
        ({"a": {"dtype": "PICKLE", "shape": [4], "data_offsets": [0, 16]}}, None),
        (b"[" * 100_000, None),
        (b"\xff\xfe", None),
    ],
    ids=range(12),
)
def test_safetensors_with_a_false_header_are_refused(header: Any, length: int | None, tmp_path: Path) -> None:
    path = hostile.safetensors(header, b"\0" * 24, tmp_path / "model.safetensors", length)
    with little_memory(), pytest.raises(FileError, match=r"model\.safetensors' cannot be read: it is damaged"):
        read_tensors(path)


def test_safetensors_with_a_long_header_take_no_more_memory_than_their_length(tmp_path: Path) -> None:
    header = {"__metadata__": {"x": "y" * 9_000_000}, "a": hostile.tensor(0, 24, 6)}
    path = hostile.safetensors(header, b"\0" * 24, tmp_path / "model.safetensors")
    with little_memory(100 * MB):
        assert read_tensors(path)["a"].shape == (6,)


def test_valid_safetensors_of_the_same_writer_are_read(tmp_path: Path) -> None:
    header = {"a": hostile.tensor(0, 16, 4), "b": hostile.tensor(16, 24, 2, 1)}
    path = hostile.safetensors(header, b"\0" * 24, tmp_path / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in read_tensors(path).items()} == {"a": (4,), "b": (2, 1)}


@pytest.mark.parametrize("maker", [hostile.png, hostile.gif, hostile.bmp], ids=["png", "gif", "bmp"])
@pytest.mark.parametrize("unlimited", [False, True])
@pytest.mark.parametrize("reader", [read_image, read_mask])
def test_a_small_image_file_that_claims_a_huge_size_is_refused(
    maker: Callable[..., Path], unlimited: bool, reader: Callable[[Path], Any], tmp_path: Path, no_limit: Any
) -> None:
    if unlimited:
        no_limit()  # some packages do this on import
    path = maker(tmp_path / "photo.png", 40_000, 40_000)
    assert path.stat().st_size < 200
    with little_memory(), pytest.raises(DataError, match=r"photo\.png.*(1600000000 pixels|40,000 x 40,000 pixels)"):
        reader(path)


@pytest.fixture
def no_limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", None)


def test_a_postscript_image_is_not_run(canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = tmp_path / "bin" / "gs"  # Pillow passes PostScript to Ghostscript
    interpreter.parent.mkdir()
    interpreter.write_text(f"#!/bin/sh\ntouch '{canary}'\n")
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", f"{interpreter.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (tmp_path / "photo.png").write_bytes(hostile.POSTSCRIPT)
    with pytest.raises(DataError, match=r"photo\.png"):
        read_image(tmp_path / "photo.png")
    assert not canary.exists()


# paths


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_out_of_the_folder_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    for path in (folder, folder.parent):
        with pytest.raises(ModelError, match=rf"{name}' cannot be read: it leads out of the folder, to '.*elsewhere'"):
            load_model(path)


def test_a_model_folder_that_is_a_link_out_of_its_run_is_refused(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="it leads out of the folder"):
        load_model(folder.parent)
    assert load_model(folder).model.classes == 2  # the user named the link


def test_a_checkpoint_that_is_a_link_out_of_its_run_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    link = tmp_path / "run" / "checkpoints" / "best.ckpt"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(checkpoint, link.parent))
    with pytest.raises(ModelError, match=r"best\.ckpt' cannot be read: it leads out of the folder"):
        load_model(tmp_path / "run")
    assert load_model(link).model.classes == 2


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors").symlink_to("weights.safetensors")
    assert load_model(folder).model.classes == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors' cannot be read: there is no such file"):
        load_model(folder)


# URLs


ADDRESSES = [
    "http://somewhere.example/weights.pth",
    "https://somewhere.example/weights.safetensors",
    "HTTPS://somewhere.example/weights.pth",
    "ftp://somewhere.example/weights.pth",
    "s3://bucket/weights.pth",
    "file:///etc/passwd",
    "hf-hub:somebody/model",
    "hf_hub:somebody/model",
    "local-dir:/tmp/model",
    "\\\\somewhere.example\\share\\weights.pth",
]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Sockets that refuse connections, and the list of attempts."""
    attempts: list[Any] = []

    def refuse(*args: Any, **options: Any) -> NoReturn:
        attempts.append(args)
        raise OSError("no network here")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


@pytest.mark.parametrize("address", ADDRESSES)
def test_weights_at_a_url_are_refused_without_a_connection(address: str, offline: list[Any]) -> None:
    with pytest.raises(WeightsError, match=r"is an address.*Download the weights to a file.*backbone\.weights=FILE"):
        Segmenter(TINY, weights=address)
    assert offline == []


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("key", ["backbone", "weights"])
def test_a_folder_that_names_a_url_is_refused_without_a_connection(
    address: str, key: str, model: Segmenter, tmp_path: Path, offline: list[Any]
) -> None:
    config = {"model": model.config(), "weights": "none", "pretrained": [], "checksum": ""}
    if key == "backbone":
        config["model"]["backbone"] = address
    else:
        config["weights"] = address
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(1)}, tmp_path / "adapters.safetensors")
    with pytest.raises(ModelError, match=r"the adapters in .* cannot be used: .*(unknown backbone|is an address)"):
        load_model(tmp_path)
    assert offline == []
