"""Names of checkpoint files: rotation, and the order of the best after a crash."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.checkpoints.checkpoint_io import write
from finetune.checkpoints.rotation import link, numbered, restore_best_order, rotate_in


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize("hard_links", [True, False])
def test_rotation_keeps_the_last_and_the_best(
    hard_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hard_links:
        monkeypatch.setattr(os, "link", lambda source, target: _refuse())
    for step, best in enumerate([0, None, 0, 1]):
        write({"step": step}, tmp_path / "next.ckpt")
        rotate_in(tmp_path / "next.ckpt", best, keep_best=2, keep_last=2)
    steps = {name: read(tmp_path / name)["step"] for name in sorted(os.listdir(tmp_path))}
    assert steps == {"best.ckpt": 2, "best_2.ckpt": 3, "last.ckpt": 3, "last_2.ckpt": 2}


@pytest.mark.parametrize("files", [[9, 2, 4], [2, 2, 4], [2, 4, 4], [2, 4], [4, 2], [None, 2, 4]])
def test_the_best_get_the_names_of_their_ranks_again(files: list[int | None], tmp_path: Path) -> None:
    for rank, step in enumerate(files):
        write({"global_step": step} if step else [], tmp_path / numbered("best", rank))
    assert restore_best_order(tmp_path, [2, 7, 4]) == [0, 2]
    assert [read(tmp_path / name)["global_step"] for name in ("best.ckpt", "best_2.ckpt")] == [2, 4]
    assert not list(tmp_path.glob("*.part"))


def test_an_unknown_best_keeps_its_name(tmp_path: Path) -> None:
    write({"global_step": 9}, tmp_path / "best.ckpt")
    assert restore_best_order(tmp_path, [2, 4]) == []
    assert os.listdir(tmp_path) == ["best.ckpt"]


def _refuse() -> None:
    raise OSError(errno.EPERM, "no hard links here")


def test_a_link_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    link(tmp_path / "a", tmp_path / "b")  # the same file already
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
