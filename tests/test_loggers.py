"""What loggers are told, so that a training that goes on continues what they show."""

from finetune.loggers import continued, identified

TENSORBOARD = {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": "runs"}
WANDB = {"_target_": "lightning.pytorch.loggers.WandbLogger", "project": "pets"}


def test_a_run_of_wandb_is_known_again_by_its_id() -> None:
    first, second = (identified({"wandb": WANDB})["wandb"] for _ in range(2))
    assert first["resume"] == "allow"
    assert first["id"] != second["id"]
    assert identified({"wandb": {**WANDB, "id": "mine"}})["wandb"]["id"] == "mine"
    assert "id" not in WANDB


def test_a_logger_that_was_taken_away_is_passed_over() -> None:
    assert identified({"wandb": None}) == continued({"wandb": None}, 3) == {}


def test_tensorboard_hides_what_was_logged_behind_the_checkpoint() -> None:
    assert continued({"t": TENSORBOARD, "w": WANDB}, 7) == {"t": {**TENSORBOARD, "purge_step": 7}, "w": WANDB}
