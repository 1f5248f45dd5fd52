"""What `finetune plan` says, against the training that it speaks of."""

from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.commands.plan import PlanResult
from finetune.commands.train import TrainResult
from tests.samples import COMMAND, MODEL, draw_folder, exit_code, listing, shell

WORDS = (*MODEL, "data=synthetic", "data.count=8", "data.size=32", "augment.crop=32", "trainer.accelerator=cpu")
GRADUAL = ("tuning=gradual", "tuning.unfreeze_at=1", "tuning.unfreeze_stagger=2", "trainer.max_epochs=4")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> PlanResult:
    """The plan of a gradual unfreeze."""
    return finetune.plan(*WORDS, *GRADUAL, f"plan.figure={tmp_path_factory.mktemp('plan') / 'plan.png'}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The training of that plan."""
    return finetune.train(*WORDS, *GRADUAL, f"output={tmp_path_factory.mktemp('run')}")


def test_phases_follow_each_other_over_the_whole_training(planned: PlanResult) -> None:
    assert [(phase.first, phase.stop) for phase in planned.phases] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_each_phase_trains_what_the_training_then_trained(planned: PlanResult, run: TrainResult) -> None:
    log = (run.folder / "train.log").read_text()
    told = [f"{phase.trained / 1e6:.2f}M of" for phase in planned.phases]
    assert told[0] in log
    for number, text in enumerate(told[1:], start=2):
        (line,) = [line for line in log.splitlines() if f"epoch {number}: unfroze" in line]
        assert text in line


def test_rates_are_those_that_the_training_then_had(planned: PlanResult, run: TrainResult) -> None:
    rows = [line.split(",") for line in (run.folder / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("lr")
    ends = [max(row.end for row in phase.rows) for phase in planned.phases]
    # the table of metrics has the rate that the next step would have
    assert [float(row[column]) for row in rows[1:-1]] == pytest.approx(
        [max(row.start for row in phase.rows) for phase in planned.phases[1:]], rel=1e-6
    )
    assert ends == sorted(ends, reverse=True)


def test_a_phase_with_less_to_train_costs_less(planned: PlanResult) -> None:
    gradients = [cost.gradients for cost in planned.costs]
    assert gradients == sorted(gradients)
    assert gradients[0] == planned.phases[0].trained * 4
    assert planned.costs[0].flops < planned.costs[-1].flops
    assert planned.costs[0].activations < planned.costs[-1].activations


def test_memory_is_told_by_what_it_is_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = finetune.plan(*WORDS, "tuning=frozen", "backbone.name=resnet18.a1_in1k")
    head, backbone = planned.phases[0].trained, 11_689_512  # torchvision's count of a ResNet-18
    weights, gradients, adam = (f"{4 * count / 1e6:.0f} MB" for count in (backbone + head, head, 2 * head))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "estimated per step" in line]
    assert f"memory: weights {weights}, gradients {gradients}, optimizer {adam}, activations " in line


def test_both_leave_a_picture_of_the_rates(planned: PlanResult, run: TrainResult) -> None:
    assert planned.picture.stat().st_size > 10_000
    assert (run.folder / "plots" / "tuning.png").stat().st_size > 10_000


def test_every_layer_group_is_said_to_train_or_to_be_frozen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("plan", *WORDS, *GRADUAL, "plan.figure=plan.png") == 0
    said = capsys.readouterr().out
    assert "phase 1: epoch 1," in said
    assert "frozen: backbone[0], backbone[1], backbone[2], backbone[3], backbone[4]" in said
    assert "phase 4: epoch 4," in said
    assert said.rstrip().endswith("picture      plan.png")
    assert listing(folder).keys() == {"plan.png"}


def test_steps_are_measured_when_that_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = finetune.plan(*WORDS, "tuning=frozen", "plan.measure=true")
    assert len(planned.measured) == 1
    assert planned.measured[0].seconds > 0
    assert "measured per step:" in capsys.readouterr().out


def test_the_images_of_a_folder_are_counted_and_not_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_folder(folder / "photos", [f"{split}/{split}_{i}" for split in ("train", "val") for i in range(6)])
    for path in (folder / "photos").rglob("*.png"):
        path.write_bytes(b"no picture")
    finetune.plan(*MODEL, "data.root=photos", "data.classes=3", "trainer.max_epochs=2", "augment.crop=32")
    assert "2 epochs of 1 steps: 6 training images, 4 a batch" in capsys.readouterr().out


def test_without_any_data_the_number_of_images_is_said_to_be_assumed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune.plan(*MODEL, "augment.crop=32")
    assert "20 epochs of 100 steps: 400 training images assumed, as neither" in capsys.readouterr().out


def test_a_last_epoch_that_is_cut_short_ends_at_the_rate_of_its_last_step(folder: Path) -> None:
    words = ("trainer.max_epochs=4", "+trainer.max_steps=15", "plan.images=8", "schedule=linear", "schedule.warmup=0")
    planned = finetune.plan(*WORDS, *words, "data.batch_size=2", "tuning=full")
    assert planned.phases[-1].rows[-1].end == pytest.approx(2e-3 / 15, rel=1e-6)


def test_phases_that_wait_for_a_plateau_are_said_to_be_assumed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune.plan(*WORDS, "tuning.unfreeze_at=plateau", "tuning.unfreeze_stagger=plateau", "tuning.plateau.patience=2")
    said = capsys.readouterr().out
    assert said.count("(assumed, depends on the score)") == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tuning.unfreeze_at=20",), "after 20 epochs, but the training has only 20"),
        (("tuning=partial", "tuning.last=9"), "more layer groups than the backbone has: 5"),
        (("tuning=full", "tuning.rules=[{match: backbone}]"), "no tuning rule matches"),
        (
            ("tuning=full", "tuning.rules=[{match: backbone, train: [[0,5],[3,8]]},{match: .}]"),
            "overlaps the span before it",
        ),
        (("tuning.layer_lr_decay=-1",), "layer_lr_decay=-1; it must be more than 0"),
        (
            ("tuning=full", "tuning.layer_lr_decay=0.5", "tuning.rules=[{match: .}]"),
            "tuning.layer_lr_decay=0.5 has no effect: none of tuning.rules",
        ),
        (("tuning.rules=[{match: .}]",), "tuning.stem_lr_scale=0.1 has no effect: none of tuning.rules takes it up"),
        (("tuning=frozen", "tuning.stem_lr_scale=0.1"), "tuning.stem_lr_scale=0.1 has no effect"),
        (("tuning=full", "+tuning.unfreez_at=0.3"), "no setting tuning.unfreez_at. Did you mean unfreeze_at"),
        (
            ("tuning=full", "tuning.warmup=100"),
            "tuning.warmup=100 has no effect: what trains never changes. For the start",
        ),
        (("tuning=full", "tuning.phase_lr=[1.0,0.5]"), "tuning.phase_lr=[1.0, 0.5] has no effect: what trains never"),
        (("tuning=full", "tuning.restart_schedule=true"), "tuning.restart_schedule=True has no effect"),
        (
            ("tuning=gradual", "tuning.plateau.patience=5"),
            "tuning.plateau.patience=5 has no effect: no rule waits for a",
        ),
        (("tuning=lora", "tuning.l2_sp=0.1"), "tuning.l2_sp=0.1 pulls the backbone to its pretrained weights; with"),
        (
            ("+optimizer.momentum=0.5",),
            "Further arguments of adamw go into its options: +optimizer.options.momentum=0.5",
        ),
        (("+optimizer.options.weight_decay=0.3",), "optimizer.options.weight_decay has no effect"),
        (("tuning=frozen", "tuning.rules=[{match: .}]"), "tuning.unfreeze_at=never has no effect"),
        (("tuning.unfreeze_at=soon",), "'soon' is not a valid start or stop"),
        (("tuning.l2_sp=-1",), "tuning.l2_sp=-1: expected a number of 0 or more"),
        (("tuning.plateau.monitor=val/iuo",), "tuning.plateau.monitor='val/iuo' is not logged by a validation"),
        (("tuning.plateau.monitor=val/loss",), "a higher loss is not better. Set tuning.plateau.mode=min"),
        (("schedule=plateau", "schedule.monitor=train/loss"), "schedule.monitor='train/loss' is not there"),
        (
            ("tuning=gradual", "tuning.restart_schedule=true", "schedule.warmup=9"),
            "schedule.warmup=9 is in steps, but tuning.restart",
        ),
        (("tuning.plateau.restore_best=true", "average=ema"), "which an average of the weights since would not follow"),
        (("tuning=full", "tuning.rules=[{match:'.',train: [[0,plateau]]}]"), "nothing trains"),
        (("tuning.rules=[{match:5}]",), "tuning.rules=[{'match': 5}]: expected a list of rules"),
        (("tuning.rules=[backbone]",), "expected a list of rules such as {match: head"),
        (("tuning.rules=null",), "tuning.rules=None: expected a list."),
        (("tuning.rules=[{match:.,lr_scale:fast}]",), "has lr_scale=fast; it must be a number"),
        (("tuning.phase_lr=0.5",), "tuning.phase_lr=0.5"),
        (("tuning.warmup=abc",), "tuning.warmup=abc"),
        (("tuning.lora=true",), "tuning.lora=True: expected a group"),
        (("tuning.unfreeze_at=null",), "null is the end of the training"),
        (("tuning.unfreeze_at=5", "+trainer.max_steps=6"), "after 5 epochs, but the training has only 3"),
        (("tuning=frozen", "tuning.norms=adapt", "backbone.name=test_convnext.r160_in1k"), "matches no batch norm"),
        (("tuning=gradual", "tuning.restart_schedule=true", "schedule=plateau"), "plateau waits for a score"),
        (("plan.images=0",), "plan.images=0"),
        (("plan.measure=3",), "plan.measure=3"),
        (("tuning=lora", "tuning.lora.targets=nothing_like_it"), "nothing_like_it"),
        (("tuning=lora", "tuning.lora.rank=0"), "rank=0"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert exit_code("plan", *WORDS, *words) == 2
    assert message in capsys.readouterr().err
    assert not listing(folder)


def test_a_picture_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plan.png").write_text("mine")
    assert exit_code("plan", *WORDS, "plan.figure=plan.png") == 2
    assert (folder / "plan.png").read_text() == "mine"


def test_no_weights_are_fetched_for_a_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def arguments(name: str, weights: str) -> dict[str, Any]:
        asked.append(weights)
        return {"pretrained": False}

    monkeypatch.setattr("finetune.models.timm_factory.pretrained_arguments", arguments)
    finetune.plan(*WORDS, "backbone.name=resnet18.a1_in1k", "backbone.weights=pretrained", "trainer.max_epochs=1")
    assert asked == ["none"]


def test_a_sweep_leaves_a_picture_for_each_of_its_jobs(folder: Path) -> None:
    words = ("trainer.max_epochs=4", "tuning=full,head_then_full,frozen", "hydra.sweep.dir=sweep")
    assert exit_code("plan", "-m", *WORDS, *words) == 0
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.png")} == {
        f"sweep/{i}/plan.png" for i in range(3)
    }


def test_a_reader_who_has_seen_enough_gets_no_traceback(folder: Path) -> None:
    command = f"{COMMAND} plan {' '.join(WORDS)} tuning=gradual | head -1"
    done = shell("bash", "-c", f"set -o pipefail; {command}", cwd=folder)
    assert done.returncode == 141
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_what_is_found_later_has_a_stand_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("optimizer.lr=auto", "data.batch_size=auto", "trainer.devices=2", "trainer.max_epochs=2")
    assert exit_code("plan", *WORDS, *words) == 0
    assert "optimizer.lr=auto is searched by the training; 0.001 stands in for it here" in capsys.readouterr().out


def test_limits_of_the_trainer_count(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune.plan(*WORDS, "trainer.max_epochs=10", "+trainer.max_steps=5", "data.count=16")
    assert "2 epochs of 4 steps" in capsys.readouterr().out
    finetune.plan(*WORDS, "trainer.max_epochs=2", "+trainer.limit_train_batches=1", "plan.figure=second.png")
    assert "2 epochs of 1 steps" in capsys.readouterr().out
