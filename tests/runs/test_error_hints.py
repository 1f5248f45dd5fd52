"""Hints for errors as torch, Lightning and the operating system raise them."""

import errno
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.checkpoints.checkpoint_io import write
from finetune.config.compose import compose, to_plain_dict
from finetune.config.errors import ConfigError
from finetune.data.records import DataError
from finetune.profiling import memory
from finetune.runs.error_hints import error_hints
from tests.tasks.tiny_run import tiny_data, tiny_task, tiny_trainer

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
Usage = namedtuple("Usage", "total used free")


def config(*overrides: str) -> dict[str, Any]:
    decided = ("data.batch_size=4", "augment.crop=320", "trainer.accumulate_grad_batches=1")
    return to_plain_dict(compose("data=synthetic", "trainer.precision=32-true", *decided, *overrides))


def error_of(action: Any) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # the caller checks which one
        action()
    return caught.value


def test_out_of_gpu_memory_shows_the_settings_and_what_to_change() -> None:
    assert error_hints(CUDA, config("data.batch_size=8", "augment.crop=320")) == [
        "tried: 8 images of 320 x 320 pixels, on one device, trainer.precision=32-true",
        "try: data.batch_size=4 trainer.accumulate_grad_batches=2, as many images a step",
        "try: augment.crop=160",
        "try: trainer.precision=bf16-mixed",
        "try: data.batch_size=largest, which searches the largest that fits",
        "try: a smaller backbone",
    ]


def test_settings_that_are_used_already_are_not_suggested() -> None:
    overrides = ("data.batch_size=1", "augment.crop=null", "data.size=[96,200]", "trainer.devices=4")
    assert error_hints(CUDA, config(*overrides, "trainer.precision=bf16-mixed")) == [
        "tried: 1 images of 96 x 200 pixels, on each device, trainer.precision=bf16-mixed",
        "try: data.size=[32,96]",
        "try: a smaller backbone",
    ]


def test_an_uneven_batch_size_is_replaced_by_about_as_many_images_per_step() -> None:
    lines = error_hints(CUDA, config("data.batch_size=5", "trainer.accumulate_grad_batches=3"))
    assert "try: data.batch_size=2 trainer.accumulate_grad_batches=6, about as many images a step" in lines


def test_a_crop_is_suggested_for_images_without_one() -> None:
    without = config("augment.crop=null")
    del without["data"]["size"]
    lines = error_hints(CUDA, without)
    assert lines[0].startswith("tried: 4 images of their own size, on one device")
    assert "try: augment.crop=320, which crops training images" in lines


def test_out_of_main_memory_shows_the_available_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1_234_567_890)
    for error in (error_of(lambda: torch.zeros(10**15)), MemoryError()):
        lines = error_hints(error, config())
        assert "memory: 1.2 GB available now" in lines
        assert "try: data.batch_size=2 trainer.accumulate_grad_batches=2, as many images a step" in lines
        assert not any("bf16" in line for line in lines)
    monkeypatch.setattr(memory, "available", lambda: None)
    assert not any("memory:" in line for line in error_hints(MemoryError(), config()))


def test_no_crop_is_suggested_for_a_validation() -> None:
    class Large(type(tiny_task())):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise CUDA

    task = tiny_task()
    task.__class__ = Large
    error = error_of(lambda: tiny_trainer().fit(task, datamodule=tiny_data()))
    assert error_hints(error, config()) == [
        "tried: 4 images of their own size in a validation or test, on one device, trainer.precision=32-true",
        "try: data.batch_size=2 trainer.accumulate_grad_batches=2, as many images a step",
        "try: smaller images to validate and test on, or a smaller backbone",
    ]


@pytest.mark.parametrize(
    "message",
    [
        "loading worker 42 was ended by SIGKILL while it read 'a.png' or its mask.",
        "DataLoader worker (pid(s) 42) exited unexpectedly",
        "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)",
        "unable to write to file </torch_1_2_3>: No space left on device (28)",
    ],
)
def test_a_dead_worker_shows_the_available_memory(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config("data.num_workers=8")
    monkeypatch.setattr(memory, "available", lambda: 512_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64_000_000, 0, 1_000_000))
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    assert error_hints(RuntimeError(message), settings) == [
        "tried: data.num_workers=8 with data.batch_size=4",
        "memory: 512.0 MB available now",
        "shared memory: 1.0 MB of 64.0 MB free in /dev/shm",
        "try: data.num_workers=0, which loads in the training process and needs neither",
    ]


@pytest.mark.parametrize(
    "message", ["[pair.cc:561] Connection closed by peer [::1]:42", "ncclRemoteError: a call failed"]
)
def test_a_lost_connection_points_to_the_error_of_another_rank(message: str) -> None:
    assert error_hints(RuntimeError(message), config()) == [
        "look: another process of this training ended first; its own error is further up, or in its log"
    ]


def test_a_full_disk_shows_its_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(50e9, 0, 2_000_000) if path == tmp_path else None)
    path = tmp_path / "run" / "metrics.csv"
    error = OSError(errno.ENOSPC, "No space left on device", str(path))
    assert error_hints(error, config()) == [
        f"disk: no space is left for '{path}'",
        f"disk: 2.0 MB of 50.0 GB free in '{tmp_path}'",
        "try: remove files you no longer need there, or output=FOLDER on another disk",
    ]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(50e9, 0, 40e9))
    assert "the number of files may be used up" in error_hints(error, config())[1]
    quota = error_hints(OSError(errno.EDQUOT, "Disk quota exceeded"), config(f"output={tmp_path}"))
    assert quota[0] == f"disk: the quota is used up for '{tmp_path}'"
    assert "number of files" not in quota[1]


def test_a_full_disk_is_recognized_as_the_cause_of_an_error_of_torch(tmp_path: Path) -> None:
    def close_unwritten_file() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    error = error_of(close_unwritten_file)
    assert error_hints(error, config(f"output={tmp_path}"))[0] == f"disk: no space is left for '{tmp_path}'"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs a device that is always full")
def test_a_checkpoint_on_a_full_disk_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "next.ckpt.part").symlink_to("/dev/full")
    error = error_of(lambda: write({"weights": torch.zeros(1000000)}, tmp_path / "next.ckpt"))
    assert isinstance(error, OSError)
    assert error.errno is None  # torch has swallowed it
    assert error_hints(error, config(f"output={tmp_path}"))[0] == f"disk: no space is left for '{tmp_path}'"


@pytest.mark.parametrize(("number", "message"), [(errno.EROFS, "is read-only"), (errno.EACCES, "permission is denied")])
def test_a_folder_without_write_permission_is_named(number: int, message: str, tmp_path: Path) -> None:
    lines = error_hints(OSError(number, "no", str(tmp_path / "run")), config(f"output={tmp_path}/run/1"))
    assert message in lines[0]
    assert lines[1:] == ["try: output=FOLDER where you may write"]
    elsewhere = error_hints(OSError(number, "no", "/some/photo.png"), config(f"output={tmp_path}"))
    assert len(elsewhere) == 1
    assert "'/some/photo.png'" in elsewhere[0]


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("unknown data.format"),
        DataError("cannot read 'a.png': PermissionError: [Errno 13] Permission denied. Replace the file."),
        RuntimeError("shapes (3, 4) and (5, 6) do not match"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv"),
        KeyError("model"),
        KeyboardInterrupt(),
    ],
)
def test_errors_that_explain_themselves_get_no_hint(error: BaseException) -> None:
    assert error_hints(error, config()) == []


def test_the_cause_of_an_error_that_explains_itself_gets_no_hint() -> None:
    def fails() -> None:
        try:
            raise PermissionError(errno.EACCES, "no", "a.png")
        except OSError as error:
            raise DataError("cannot read 'a.png'. Take it out.") from error

    assert error_hints(error_of(fails), config()) == []


def test_hints_never_raise() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    for error in (CUDA, MemoryError(), RuntimeError("DataLoader worker (pid 1)"), full, ValueError()):
        assert bool(error_hints(error, {})) == (not isinstance(error, ValueError))
