"""Checkpoint files: writing them, failures to write, and later damage."""

import errno
import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.checkpoints.checkpoint_io import CheckpointFiles, find_corruption, snapshot, write

CONTENT = {"weights": torch.arange(1000.0), "step": 3, "names": ["a", "b"]}


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def test_a_checkpoint_is_read_back_and_leaves_no_other_file(tmp_path: Path) -> None:
    write(CONTENT, tmp_path / "new" / "a.ckpt")
    assert torch.equal(read(tmp_path / "new" / "a.ckpt")["weights"], CONTENT["weights"])  # type: ignore[arg-type]
    assert os.listdir(tmp_path / "new") == ["a.ckpt"]


@pytest.mark.parametrize("bit", [0, 5])
def test_a_flipped_bit_of_a_tensor_is_found(bit: int, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write(CONTENT, path)
    intact = path.read_bytes()
    start = intact.index(torch.arange(1000.0).numpy().tobytes()[:64])
    for position in (start, start + 1777, start + 3999):
        content = bytearray(intact)
        content[position] ^= 1 << bit
        path.write_bytes(content)
        assert "checksum" in str(find_corruption(path))
        assert torch.load(path, weights_only=True)  # torch does not notice
    path.write_bytes(intact)
    assert find_corruption(path) is None


@pytest.mark.parametrize("stride", [101, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_in_a_file_is_found_or_harmless(stride: int, tmp_path: Path) -> None:
    """Of the zip directory and the pickle, too, however the file is read later."""
    path, content = tmp_path / "a.ckpt", {"weights": torch.arange(5.0), "step": 3}
    write(content, path)
    intact, corrupt = path.read_bytes(), 0
    positions = range(0, 8 * len(intact), stride)  # an odd stride tries all bits of a byte in turn
    for position in positions:
        flipped = bytearray(intact)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        if find_corruption(path) is None:
            for mapped in (True, False):
                back = torch.load(path, weights_only=True, mmap=mapped)
                assert back.keys() == content.keys()
                assert back["step"] == 3
                assert torch.equal(back["weights"], torch.arange(5.0)), position
        else:
            corrupt += 1
    assert corrupt > len(positions) / 4


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_found(fraction: float, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write(CONTENT, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    assert find_corruption(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_keeps_the_old_file_and_names_the_cause(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ckpt"
    write(CONTENT, path)
    old = path.read_bytes()

    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=rf"a\.ckpt' could not be written: .*{os.strerror(number)}"):
        write({"step": 4}, path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_a_disk_that_became_read_only_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(OSError, match=r"a\.ckpt' could not be written: .*Read-only"):
        write(CONTENT, tmp_path / "a.ckpt")


def test_a_file_that_does_not_read_back_never_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: os.ftruncate(handle, 500))  # a faulty disk
    with pytest.raises(OSError, match="does not read back"):
        write(CONTENT, tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_raises_at_the_next_save_and_keeps_the_old_file(tmp_path: Path) -> None:
    """Without mocks: the file size limit of this process takes the place of the disk."""
    files, path = CheckpointFiles(), tmp_path / "a.ckpt"
    files.save_checkpoint(CONTENT, path)
    files.wait()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        files.save_checkpoint({"weights": torch.zeros(100_000)}, path)
        with pytest.raises(OSError, match="could not be written"):
            files.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
        files.teardown()
    assert read(path)["step"] == 3


def test_training_continues_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has the values at the time of saving."""
    go = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda handle: go.wait(20))
    weights, rows, files = torch.zeros(5), [1], CheckpointFiles()
    files.save_checkpoint({"weights": weights, "rows": rows}, tmp_path / "a.ckpt")
    weights += 1
    rows.append(2)
    assert not (tmp_path / "a.ckpt").exists()
    go.set()
    files.teardown()
    assert read(tmp_path / "a.ckpt")["rows"] == [1]
    assert torch.equal(read(tmp_path / "a.ckpt")["weights"], torch.zeros(5))


def test_actions_run_after_a_write_and_not_after_a_failure(tmp_path: Path) -> None:
    files, calls = CheckpointFiles(), []
    files.save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    files.enqueue(lambda: calls.append((tmp_path / "a.ckpt").exists()))
    files.wait()
    assert calls == [True]
    (tmp_path / "b.ckpt").mkdir()
    files.save_checkpoint(CONTENT, tmp_path / "b.ckpt")
    files.enqueue(lambda: calls.append(False))
    with pytest.raises(OSError, match=r"b\.ckpt"):
        files.teardown()
    assert calls == [True]


def test_a_shared_tensor_is_copied_once() -> None:
    weights = torch.zeros(3)
    copied = snapshot({"a": weights, "b": [weights, (weights[:2], weights)]})
    assert copied["a"] is copied["b"][0] is copied["b"][1][1]
    assert copied["b"][1][0].shape == (2,)
    assert copied["a"].data_ptr() != weights.data_ptr()


def test_a_value_that_could_not_be_read_back_is_refused_with_its_key() -> None:
    with pytest.raises(TypeError, match=r"'callbacks\.Mine\.1' is a .*Path"):
        snapshot({"callbacks": {"Mine": [1, Path()]}})
