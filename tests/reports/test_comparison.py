"""Differences of runs against a bootstrap by hand, and what cannot be compared."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune
from finetune.config.errors import ConfigError
from finetune.io.safe_files import FileError
from finetune.metrics.overlaps import ImageResults
from finetune.reports.comparison import Evaluation, difference, on_common_images, read_overlaps, save_overlaps
from tests.samples import draw_folder, on_folder

pytestmark = pytest.mark.usefixtures("without_figures")


def evaluation(run: str, both: torch.Tensor, images: int = 30) -> Evaluation:
    """Return an evaluation of two classes with 100 true and predicted pixels each."""
    full = torch.full_like(both, 100)
    names = tuple(f"image {number:02d}" for number in range(images))
    return Evaluation(run, ("road", "other"), names, torch.stack([both, full, full], dim=-1))


@pytest.fixture
def pair() -> tuple[Evaluation, Evaluation]:
    generator = torch.Generator().manual_seed(0)
    both = torch.randint(20, 80, (30, 2), generator=generator)
    better = both + torch.randint(-5, 9, (30, 2), generator=generator)
    return evaluation("a", both), evaluation("b", better)


def iou(overlaps: np.ndarray) -> float:
    total = overlaps.sum(0)
    return float(np.mean(total[:, 0] / (total[:, 1] + total[:, 2] - total[:, 0])))


def test_a_difference_is_that_of_pairs_drawn_by_hand(pair: tuple[Evaluation, Evaluation]) -> None:
    first, other = (each.overlaps.numpy() for each in pair)
    random, changes = np.random.default_rng(0), []
    for _ in range(4000):
        drawn = random.integers(30, size=30)
        changes.append(iou(other[drawn]) - iou(first[drawn]))
    found = difference(*pair)
    assert found.mean == pytest.approx(iou(other) - iou(first))
    assert (found.low, found.high) == pytest.approx(np.quantile(changes, [0.025, 0.975]), abs=0.002)
    assert found.p == pytest.approx(2 * np.mean(np.array(changes) <= 0), abs=0.01)
    assert found.by_class.tolist() == pytest.approx((pair[1].iou - pair[0].iou).tolist())
    single = [iou(other[[k]]) - iou(first[[k]]) for k in range(30)]
    assert found.by_image.tolist() == pytest.approx(single)


def test_a_run_does_not_differ_from_itself(pair: tuple[Evaluation, Evaluation]) -> None:
    found = difference(pair[0], pair[0])
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_runs_are_compared_on_the_images_of_both(pair: tuple[Evaluation, Evaluation]) -> None:
    first, other = pair
    part = Evaluation("b", other.classes, other.images[::-2], other.overlaps.flip(0)[::2])
    left, right = on_common_images([first, part])
    assert left.images == right.images == other.images[1::2]
    assert torch.equal(right.overlaps, other.overlaps[1::2])


def test_images_of_two_splits_that_share_a_name_are_both_compared(pair: tuple[Evaluation, Evaluation]) -> None:
    twice = tuple(f"image {number % 15:02d}" for number in range(30))
    left, right = on_common_images([Evaluation(each.run, each.classes, twice, each.overlaps) for each in pair])
    assert len(left.images) == 30
    assert torch.equal(left.overlaps[::2], pair[0].overlaps[:15])
    assert torch.equal(right.overlaps[1::2], pair[1].overlaps[15:])


def test_an_image_whose_name_a_run_has_more_often_is_left_out(pair: tuple[Evaluation, Evaluation]) -> None:
    first, other = pair
    part = Evaluation("b", other.classes, other.images[:20], other.overlaps[:20])
    twice = Evaluation("a", first.classes, (*first.images[:29], "image 00"), first.overlaps)
    left, right = on_common_images([twice, part])
    assert left.images == right.images == other.images[1:20]


def test_runs_on_other_classes_images_or_masks_are_not_compared(pair: tuple[Evaluation, Evaluation]) -> None:
    first, other = pair
    with pytest.raises(ValueError, match="same classes, but a has road, other and b has road, sky"):
        on_common_images([first, Evaluation("b", ("road", "sky"), other.images, other.overlaps)])
    with pytest.raises(ValueError, match="a and b were evaluated on other images"):
        on_common_images([first, Evaluation("b", other.classes, tuple("x" * 30), other.overlaps)])
    with pytest.raises(ValueError, match="a and b were evaluated with other masks"):
        on_common_images([first, Evaluation("b", other.classes, other.images, other.overlaps + 1)])


def test_overlaps_are_read_as_they_were_written(tmp_path: Path, pair: tuple[Evaluation, Evaluation]) -> None:
    images = ImageResults(torch.tensor([2, 5]), pair[0].overlaps)
    save_overlaps(tmp_path / "overlaps.npz", images, pair[0].images, pair[0].classes)
    found = read_overlaps(tmp_path / "overlaps.npz", "a")
    assert (found.run, found.images, found.classes) == ("a", ("image 02", "image 05"), ("road", "other"))
    assert torch.equal(found.overlaps, pair[0].overlaps[[2, 5]])


def test_a_file_of_a_stranger_is_no_code(tmp_path: Path) -> None:
    path = tmp_path / "overlaps.npz"
    np.savez(path, images=np.array([object()]), classes=np.array(["a"]), overlaps=np.zeros((1, 1, 3), np.int64))
    with pytest.raises(FileError, match="holds no overlaps of an evaluation"):
        read_overlaps(path, "a")
    np.savez(path, images=np.array(["x"]), classes=np.array(["a"]), overlaps=np.zeros((2, 1, 3), np.int64))
    with pytest.raises(FileError, match=r"its overlaps have the shape \(2, 1, 3\)"):
        read_overlaps(path, "a")
    np.savez(path, images=np.array(["x"]), classes=np.array(["a"]), overlaps=np.zeros((1, 1, 3), np.int64))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FileError, match="holds no overlaps"):
        read_overlaps(path, "a")
    path.write_bytes(b"nothing")
    with pytest.raises(FileError, match="holds no overlaps"):
        read_overlaps(path, "a")


def test_the_command_compares_runs(tmp_path: Path) -> None:
    photos = draw_folder(tmp_path / "photos", [f"photo_{i:02d}" for i in range(16)])
    common = (*on_folder(photos), "optimizer.lr=1e-2")
    first = finetune.train(*common, f"output={tmp_path / 'a'}")
    second = finetune.train(*common, "trainer.max_epochs=4", f"output={tmp_path / 'b'}")
    path = finetune.report(f"run=[{first.folder},{second.folder}]")
    assert path == first.folder / "comparison.html"
    text = path.read_text()
    assert f"{second.scores['iou'] - first.scores['iou']:+.4f}" in text
    assert all(f"{run.scores['iou']:.4f}" in text for run in (first, second))
    assert all(name in text for name in ("ground", "wall", "sky", "Images that changed most"))
    for run in (first, second):
        (run.folder / "evaluation" / "test").rename(run.folder / "evaluation" / "val")
    assert finetune.report(f"run=[{first.folder},{second.folder}]").read_text() == text
    (first.folder / "evaluation" / "val" / "overlaps.npz").unlink()
    with pytest.raises(ConfigError, match=r"no evaluation on val in common: '.*/a' lacks evaluation/val/overlaps\.npz"):
        finetune.report(f"run=[{first.folder},{second.folder}]", "split=val")
    shutil.rmtree(second.folder / "evaluation" / "val")
    with pytest.raises(ConfigError, match="expected the folder of a run with an evaluation"):
        finetune.report(f"run=[{first.folder},{second.folder}]")
