"""The weights that a training ends with, chosen again by hand from its checkpoints."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import finetune
from finetune.callbacks import Checkpoint
from finetune.checkpoints.soup import mean_weights
from finetune.commands import final_weights
from finetune.config.errors import ConfigError
from finetune.data import read_image, read_mask
from finetune.data.splitting.split_file import read_splits
from finetune.metrics.semantic import SemanticEvaluator
from tests.samples import draw_folder, on_folder

pytestmark = pytest.mark.usefixtures("without_figures")
RANKS = ("best.ckpt", "best_2.ckpt", "best_3.ckpt")


def test_a_mean_of_weights_is_that_of_each_tensor() -> None:
    states = [
        {"w": torch.tensor([1.0, 5.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([2.0, 7.0]), "n": torch.tensor(4)},
    ]
    mean = mean_weights(states)
    assert mean["w"].tolist() == [1.5, 6.0]
    assert mean["w"].dtype == torch.float32
    assert mean["n"] == 3


def test_a_soup_of_a_score_that_should_fall_takes_what_does_not_raise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    saver = SimpleNamespace(best=[{}, {}, {}], mode="min", monitor="val/loss", folder=Path())
    states = [{"w": torch.tensor([float(value)])} for value in (4.0, 9.0, 1.0)]
    held: list[float] = []
    folder = Path("of_the_first_rank")
    trainer = SimpleNamespace(callback_metrics={}, strategy=SimpleNamespace(broadcast=lambda _: folder))
    monkeypatch.setattr(final_weights, "find_callback", lambda _, kind: saver if kind is Checkpoint else None)
    places = {folder / name: state for name, state in zip(RANKS, states, strict=True)}
    monkeypatch.setattr(final_weights, "read_whole", lambda path: {"state_dict": places[path]})
    monkeypatch.setattr(final_weights, "load_weights", lambda _, state: held.append(float(state["w"])))

    def evaluate(*_: object) -> None:
        trainer.callback_metrics["val/loss"] = torch.tensor(held[-1])

    monkeypatch.setattr(final_weights, "evaluate_split", evaluate)
    score = final_weights.load_soup(trainer, None, None, 4.0)  # type: ignore[arg-type]  # stand-ins
    assert held == [6.5, 2.5, 2.5]  # with 9 the loss would rise, with 1 it falls
    assert score == 2.5


def test_a_soup_takes_the_checkpoints_with_which_the_validation_score_does_not_fall(tmp_path: Path) -> None:
    photos = draw_folder(tmp_path / "photos", [f"photo_{i:02d}" for i in range(16)])
    overrides = ("trainer.max_epochs=6", "optimizer.lr=2e-2", "checkpoint.keep_best=3", "soup=true")
    run = finetune.train(*on_folder(photos), *overrides, f"output={tmp_path / 'run'}").folder
    val = [name for name, split in read_splits(run / "splits.csv").items() if split == "val"]
    predictor = finetune.load(run / "checkpoints" / "best.ckpt", "cpu")

    def score(weights: dict[str, torch.Tensor]) -> float:
        predictor.model.load_state_dict(weights)
        evaluator = SemanticEvaluator(predictor.class_names, 255)
        for name in val:
            guess = predictor.predict_image(read_image(photos / "images" / f"{name}.png"))
            evaluator.update(guess[None], read_mask(photos / "masks" / f"{name}.png")[None])
        return float(evaluator.compute(evaluator.counts())["iou"])

    files = [run / "checkpoints" / name for name in ("best.ckpt", "best_2.ckpt", "best_3.ckpt")]
    states = [torch.load(file, weights_only=True)["state_dict"] for file in files]
    states = [{name.removeprefix("model."): value for name, value in state.items()} for state in states]
    chosen, best = states[:1], score(states[0])
    for state in states[1:]:
        if (candidate := score(mean_weights([*chosen, state]))) >= best:
            chosen, best = [*chosen, state], candidate
    saved = load_file(run / "model" / "model.safetensors")
    expected = mean_weights(chosen)
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in saved)
    assert f"the mean of {len(chosen)} of the 3 best checkpoints, val/iou {best:.4f}" in (run / "train.log").read_text()


def test_a_soup_of_one_checkpoint_is_refused(tmp_path: Path) -> None:
    photos = draw_folder(tmp_path / "photos")
    with pytest.raises(ConfigError, match=r"soup=true .* checkpoint\.keep_best=1\. Set checkpoint\.keep_best=3"):
        finetune.train(*on_folder(photos), "soup=true", f"output={tmp_path / 'run'}")
