"""Names of checkpoint files: `last.ckpt`, `last_2.ckpt`, ... and `best.ckpt`, `best_2.ckpt`, ..."""

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from finetune.checkpoints.checkpoint_io import find_corruption
from finetune.io.atomic_write import PART, sync_file, sync_folder
from finetune.io.safe_files import FileError, read_pickle


def rotate_in(written: Path, best: int | None, keep_best: int, keep_last: int) -> None:
    """Rename a written checkpoint to `last.ckpt`, and link `best.ckpt` to it if it is the best.

    Earlier checkpoints move down: `last_2.ckpt` is the one before the last, `best_2.ckpt` the second best. Each name
    holds a complete checkpoint at any time. The best is linked first: a run that is killed in between resumes from an
    older last checkpoint, restores the order of the best with `restore_best_order`, and writes this one again.

    Args:
        written: a complete file in the folder of the checkpoints; it loses its name.
        best: its place among the best, from 0; None if it is not among them.
        keep_best: number of best checkpoints, with this one.
        keep_last: number of last checkpoints to keep; 0 if this one does not become the last.
    """
    folder = written.parent
    if best is not None:
        shift_places(folder, "best", best, keep_best)
        link(written, folder / numbered("best", best))
    if keep_last:
        shift_places(folder, "last", 0, keep_last)
        written.replace(folder / numbered("last", 0))
    else:
        written.unlink()
    sync_folder(folder)


def shift_places(folder: Path, name: str, first: int, keep: int) -> None:
    """Move the checkpoints from a place on by one; the last one is dropped."""
    for place in reversed(range(first, keep - 1)):
        if (path := folder / numbered(name, place)).exists():
            link(path, folder / numbered(name, place + 1))


def restore_best_order(folder: Path, steps: Sequence[int]) -> list[int]:
    """Rename the best checkpoints to the places that they had when the resumed checkpoint was written.

    A process that is killed during `rotate_in` leaves a better checkpoint, which the resumed run writes again, or the
    same one under two names.

    Args:
        folder: folder of the checkpoints.
        steps: optimizer steps of the best checkpoints, in order.

    Returns:
        The indices in `steps` that have a file.
    """
    paths = sorted(folder.glob("best*.ckpt"), key=lambda path: (len(path.name), path.name))
    unused = [(path, _step(path)) for path in paths]
    indices: list[int] = []
    moves: list[tuple[Path, Path, Path]] = []
    for index, step in enumerate(steps):
        if match := next((file for file in unused if file[1] == step), None):
            target = folder / numbered("best", len(indices))
            indices.append(index)
            unused.remove(match)
            if match[0] != target:
                moves.append((match[0], target.with_name(f"moved_{target.name}{PART}"), target))
    for path, part, _ in moves:  # all of them first, as a target may be the file of another move
        link(path, part)
    for _, part, target in moves:
        part.replace(target)
    sync_folder(folder)
    return indices


def _step(path: Path) -> int | None:
    """Return the optimizer step of a checkpoint, or None if it holds none."""
    with suppress(FileError):
        content = read_pickle(path)
        return content.get("global_step") if isinstance(content, dict) else None
    return None


def next_intact_checkpoint(path: Path) -> Path | None:
    """Return the checkpoint to use instead of a corrupt one, or None.

    The next places of the same name, best or last, come first, then those of the other name.
    """
    candidates = []
    for other in path.parent.glob("*.ckpt"):
        name = re.fullmatch(r"(best|last)(?:_(\d+))?\.ckpt", other.name)
        if name and other != path:
            candidates.append((name[1] != path.name[:4], int(name[2] or 1), other))
    return next((other for *_, other in sorted(candidates) if find_corruption(other) is None), None)


def numbered(name: str, place: int) -> str:
    """Return the file name of a checkpoint by its place among those of its kind, from 0 for the newest or best.

    >>> numbered("last", 0), numbered("last", 1)
    ('last.ckpt', 'last_2.ckpt')
    """
    return f"{name}.ckpt" if place == 0 else f"{name}_{place + 1}.ckpt"


def link(source: Path, target: Path) -> None:
    """Give a file a second name atomically; copy it only if the file system has no hard links."""
    part = target.with_name(target.name + PART)
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
        sync_file(part)
    part.replace(target)
    part.unlink(missing_ok=True)  # renaming does nothing if both names are of the same file
