"""Reading of plain data: it comes back as it was written, and errors name the file and the reason."""

from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from finetune.io.safe_files import (
    DEEPEST,
    MOST_VALUES,
    FileError,
    check_links,
    check_plain,
    inside,
    read_json,
    read_pickle,
    read_tensors,
    read_text,
)
from tests.end_to_end import hostile

SHARED = OrderedDict(a=[1, 2], b=("x", "x"))
CONTENT: dict[str, Any] = {
    "state_dict": OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.ones(2, dtype=torch.int64)),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "nothing": torch.zeros(0),
    "bits": torch.tensor([True, False]),
    "numbers": [1, 2.5, True, None, -(2**40)],
    "pair": (1, "two"),
    "parameter": nn.Parameter(torch.ones(2)),
    "counted": Counter([3, 3, 7]),
    "set": {1, "two"},
    "sizes": [torch.Size([1, 2]), torch.Size([])],
    "types": [torch.float32, torch.bool, torch.float8_e4m3fn, torch.complex64, torch.device("cuda:0"), torch.strided],
    "complex": 1 + 2j,
    "small": torch.ones(2, dtype=torch.float8_e5m2).float(),
    "shared": [SHARED, SHARED],
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_plain_data_is_read_as_it_was_written(form: str, tmp_path: Path) -> None:
    path = hostile.write(CONTENT, tmp_path / "x.pth", form)
    assert same(read_pickle(path, old=True), CONTENT)


def test_a_state_dict_keeps_its_versions(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).state_dict()
    content = read_pickle(hostile.write(state, tmp_path / "x.pth"))
    assert same(content, state)
    assert content._metadata == state._metadata  # type: ignore[attr-defined]  # private to torch


def test_an_ordered_dict_of_python_2_is_read(tmp_path: Path) -> None:
    items = b"](](U\x01aK\x01e](U\x01b" + hostile.repeated_number(2) + b"ee"
    content = b"\x80\x02ccollections\nOrderedDict\n" + items + b"\x85R."
    path = hostile.with_pickle(hostile.write({"x": torch.ones(1)}, tmp_path / "x.pth"), tmp_path / "y.pth", content)
    assert same(read_pickle(path), {"a": 1, "b": torch.ones(2)})


def test_many_shared_tensors_are_read(tmp_path: Path) -> None:
    content = {f"layer.{number}.weight": torch.zeros(1) for number in range(3000)}
    assert len(read_pickle(hostile.write({"state": [content] * 50}, tmp_path / "x.pth"))["state"][49]) == 3000


def test_changing_a_tensor_does_not_change_its_file(tmp_path: Path) -> None:
    path = hostile.write(CONTENT, tmp_path / "x.pth")
    before = path.read_bytes()
    read_pickle(path)["state_dict"]["a"].zero_()
    assert path.read_bytes() == before


def test_tensors_keep_their_values_when_their_file_is_replaced(tmp_path: Path) -> None:
    path = hostile.write(CONTENT, tmp_path / "x.pth")
    content = read_pickle(path)
    hostile.write({}, tmp_path / "y.pth").replace(path)
    assert same(content, CONTENT)


@pytest.mark.parametrize("form", ["legacy", "pickle"])
def test_old_formats_are_refused_by_default(form: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"x\.ckpt' cannot be read: it is no plain data in the form"):
        read_pickle(hostile.write({"a": 1}, tmp_path / "x.ckpt", form))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "half"])
def test_damaged_files_are_named(damage: str, tmp_path: Path) -> None:
    intact = hostile.write(CONTENT, tmp_path / "intact.pth").read_bytes()
    parts = {"cut": intact[:-30], "empty": b"", "text": b"PK\x03\x04 is its start"}
    (tmp_path / "x.pth").write_bytes(parts.get(damage, intact[: len(intact) // 2]))
    with pytest.raises(FileError, match=r"x\.pth' cannot be read: it is no plain data"):
        read_pickle(tmp_path / "x.pth", old=True)


@pytest.mark.parametrize("thing", [np.float64(3), Path("x"), nn.ReLU(), print], ids=repr)
def test_a_class_that_is_no_plain_data_is_named(thing: Any, tmp_path: Path) -> None:
    path = hostile.write({"x": thing}, tmp_path / "x.pth")
    with pytest.raises(
        FileError, match=r"x\.pth' cannot be read: it is no plain data: reading it would call '[\w.]+', which"
    ):
        read_pickle(path)


@pytest.mark.parametrize("reader", [read_pickle, read_tensors, read_json, read_text])
def test_a_missing_file_and_a_folder_are_named(reader: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(FileError, match=f"'{path}' cannot be read: there is no such file"):
            reader(path)


def test_the_reason_does_not_repeat_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileError) as error:
        read_text(tmp_path / "absent")
    assert error.value.reason == "there is no such file."


def test_safetensors_are_read(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, 4), "b": torch.zeros(0, 5), "c": torch.tensor(3)}
    save_file(state, tmp_path / "x.safetensors")
    assert same(read_tensors(tmp_path / "x.safetensors"), state)


def test_a_tree_has_limits_of_values_and_levels() -> None:
    check_plain([0] * (MOST_VALUES - 1), Path("x"))
    with pytest.raises(FileError, match="it holds more than"):
        check_plain([0] * MOST_VALUES, Path("x"))
    deep: Any = 3
    for _ in range(DEEPEST - 1):
        deep = {"a": deep}
    check_plain(deep, Path("x"))
    with pytest.raises(FileError, match=r"'x' cannot be read: b holds more than .* levels"):
        check_plain([deep], Path("x"), "b")


@pytest.mark.parametrize("value", [torch.zeros(2), b"x", {1}, Path("x"), {"a": [range(3)]}, {b"key": 1}], ids=str)
def test_a_tree_of_other_types_is_refused(value: Any) -> None:
    with pytest.raises(FileError, match="where plain data is expected"):
        check_plain(value, Path("x"))


def test_a_list_that_contains_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(FileError, match="levels"):
        check_plain(circle, Path("x"))


def test_inside_follows_links_and_dots(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "folder_2"
    folder.mkdir()
    other.mkdir()
    (folder / "out").symlink_to(other)
    (folder / "in").symlink_to("file")
    (tmp_path / "name").symlink_to(folder)
    for path in (folder, folder / "file", folder / "a" / ".." / "file", folder / "in", tmp_path / "name" / "in"):
        assert inside(path, folder) == path
    assert inside(folder / "file", tmp_path / "name") == folder / "file"
    for path in (tmp_path, other, folder / ".." / "x", folder / "out", folder / "out" / "x", Path("/etc/passwd")):
        with pytest.raises(FileError, match="it leads out of the folder, to"):
            inside(path, folder)


def test_links_in_subfolders_are_checked(tmp_path: Path) -> None:
    (tmp_path / "run" / "a" / "b").mkdir(parents=True)
    (tmp_path / "run" / "a" / "near").symlink_to("b")
    check_links(tmp_path / "run")
    (tmp_path / "run" / "a" / "b" / "far").symlink_to("../../../elsewhere")  # does not exist
    with pytest.raises(FileError, match=r"far' cannot be read: it leads out"):
        check_links(tmp_path / "run")
    check_links(tmp_path / "run", "a/*/far")
    with pytest.raises(FileError, match=r"far' cannot be read: it leads out"):
        check_links(tmp_path / "run", "b/*/far")
