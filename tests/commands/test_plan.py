"""`finetune plan`, compared with the training that it predicts."""

import os
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.commands.plan import PlanResult
from finetune.commands.train import TrainResult
from finetune.config.errors import ConfigError
from tests.samples import MODEL, draw_folder, exit_code, listing

OVERRIDES = (*MODEL, "data=synthetic", "data.count=8", "data.size=32", "augment.crop=32", "trainer.accelerator=cpu")
GRADUAL = ("tuning=gradual", "tuning.unfreeze_at=1", "tuning.unfreeze_stagger=2", "trainer.max_epochs=4")


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the time of all figures but those of the module's fixtures, which are made before this."""
    monkeypatch.setattr("finetune.reports.tuning.timeline_figure", lambda *arguments: Path(arguments[-1]).touch())


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> PlanResult:
    """Return the plan of a training that unfreezes stages one by one."""
    return finetune.plan(*OVERRIDES, *GRADUAL, f"plan.figure={tmp_path_factory.mktemp('plan') / 'plan.png'}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Return the training with the same overrides."""
    return finetune.train(*OVERRIDES, *GRADUAL, f"output={tmp_path_factory.mktemp('run')}")


def test_a_plan_warns_of_what_the_training_would_warn_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = draw_folder(tmp_path / "photos")
    finetune.plan(*MODEL, f"data.root={photos}", "data.classes=4", f"plan.figure={tmp_path / 'plan.png'}")
    assert "no training image has class_3, so the model cannot learn it" in "".join(capsys.readouterr())


def test_the_phases_cover_the_whole_training(planned: PlanResult) -> None:
    assert [(phase.first, phase.stop) for phase in planned.phases] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_each_phase_trains_the_parameters_that_the_training_trained(planned: PlanResult, run: TrainResult) -> None:
    log = (run.folder / "train.log").read_text()
    counts = [f"{phase.trained / 1e6:.2f}M of" for phase in planned.phases]
    assert counts[0] in log
    for number, text in enumerate(counts[1:], start=2):
        (line,) = [line for line in log.splitlines() if f"epoch {number}: unfr" in line]
        assert text in line


def test_the_learning_rates_are_those_of_the_training(planned: PlanResult, run: TrainResult) -> None:
    rows = [line.split(",") for line in (run.folder / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("lr")
    ends = [max(row.end for row in phase.rows) for phase in planned.phases]
    # metrics.csv has the rate of the next step
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


def test_memory_is_listed_by_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = finetune.plan(*OVERRIDES, "tuning=frozen", "backbone.name=resnet18.a1_in1k")
    head, backbone = planned.phases[0].trained, 11_689_512  # torchvision's count of a ResNet-18
    weights, gradients, adam = (f"{4 * count / 1e6:.1f} MB" for count in (backbone + head, head, 2 * head))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "estimated per step" in line]
    assert f"memory: weights {weights}, gradients {gradients}, optimizer {adam}, activations " in line


def test_the_plan_and_the_training_draw_the_learning_rates(planned: PlanResult, run: TrainResult) -> None:
    assert planned.figure.stat().st_size > 10_000
    assert (run.folder / "plots" / "tuning.png").stat().st_size > 10_000


def test_every_layer_group_is_listed_as_trained_or_frozen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("plan", *OVERRIDES, *GRADUAL, "plan.figure=plan.png") == 0
    output = capsys.readouterr().out
    assert "phase 1: epoch 1," in output
    assert "frozen: backbone[0], backbone[1], backbone[2], backbone[3], backbone[4]" in output
    assert "phase 4: epoch 4," in output
    assert output.rstrip().endswith("figure       plan.png")
    assert listing(folder).keys() == {"plan.png"}


def test_measure_times_real_steps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = finetune.plan(*OVERRIDES, "tuning=frozen", "plan.measure=true")
    assert len(planned.measured) == 1
    assert planned.measured[0].median > 0
    assert "measured per step:" in capsys.readouterr().out


def test_what_follows_from_the_images_is_shown_with_its_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folder(folder / "photos", [f"{split}/{split}_{i}" for split in ("train", "val") for i in range(6)])
    finetune.plan(*MODEL, "data.root=photos", "data.classes=3", "budget=8steps")
    output = capsys.readouterr().out
    assert "augment.crop=[32,64]: the median image is 32 x 40, which fits whole" in output
    assert "data.batch_size=8: steady enough for batch norm and the gradient" in output
    assert "8 steps of 8 images, 8 epochs, 4 validations: budget=8steps" in output
    assert "8 epochs of 1 steps: 6 training images, 8 a batch" in output


def test_with_a_number_of_images_nothing_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_folder(folder / "photos")
    for path in (folder / "photos").rglob("*.png"):
        path.write_bytes(b"no image")
    settings = ("data=folder", "data.root=photos", "data.classes=3", "augment.crop=32", "plan.images=30")
    finetune.plan(*MODEL, *settings, "budget=14steps")
    output = capsys.readouterr().out
    assert "2 epochs of 7 steps: 30 training images, 4 a batch" in output
    assert "no data: data.batch_size=4 stands for" in output
    assert "no data: trainer.max_epochs" not in output


def test_a_budget_of_time_buys_steps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = finetune.plan(*OVERRIDES, "budget=10m")
    line = next(line for line in capsys.readouterr().out.splitlines() if "budget=10m, of which" in line)
    assert int(line.partition(" steps")[0].replace(",", "")) > 100
    assert result.phases[-1].stop > 25
    assert exit_code("plan", *MODEL, "budget=10m") == 2
    assert "budget=10m: steps are timed on the data. Set data.root, or a number of steps" in capsys.readouterr().err


def test_tiles_are_counted_as_the_training_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = draw_folder(tmp_path / "data", [f"{i}" for i in range(8)], size=(32, 40))
    settings = ("data=folder", f"data.root={root}", "data.classes=3", "data.tiles=20", "augment.crop=20")
    finetune.plan(*MODEL, *settings, "trainer.max_epochs=1", f"plan.figure={tmp_path / 'plan.png'}")
    assert "24 training tiles" in capsys.readouterr().out


def test_without_data_the_output_says_that_the_number_of_images_is_assumed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune.plan(*MODEL, "augment.crop=32")
    output = capsys.readouterr().out
    assert "20 epochs of 100 steps: 400 training images assumed, as neither" in output
    assert "no data: data.batch_size=4 stands for what follows from it" in output
    assert "no data: trainer.max_epochs=20 stands for" in output


def test_a_truncated_last_epoch_ends_at_the_rate_of_its_last_step(folder: Path) -> None:
    overrides = (
        "trainer.max_epochs=4",
        "+trainer.max_steps=15",
        "plan.images=8",
        "schedule=linear",
        "schedule.warmup=0",
    )
    planned = finetune.plan(*OVERRIDES, *overrides, "data.batch_size=2", "tuning=full")
    assert planned.phases[-1].rows[-1].end == pytest.approx(2e-3 / 15, rel=1e-6)


@pytest.mark.slow
def test_the_output_says_that_phases_after_a_plateau_are_assumed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plateaus = ("tuning.unfreeze_at=plateau", "tuning.unfreeze_stagger=plateau", "tuning.plateau.patience=2")
    with pytest.raises(ConfigError, match=r"at least 72 epochs to detect, .*trainer\.check_val_every_n_epoch=1 or"):
        finetune.plan(*OVERRIDES, *plateaus)
    finetune.plan(*OVERRIDES, *plateaus, "trainer.check_val_every_n_epoch=1")
    assert capsys.readouterr().out.count("(assumed") == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("tuning.unfreeze_at=20", "trainer.max_epochs=20"), "after 20 epochs, but the training has only 20"),
        (("tuning=partial", "tuning.last=9"), "more layer groups than the backbone has: 5"),
        (("tuning=full", "tuning.rules=[{match: backbone}]"), "no tuning rule"),
        (
            ("tuning=full", "tuning.rules=[{match: backbone, train: [[0,5],[3,8]]},{match: .}]"),
            "overlaps the span before it",
        ),
        (("tuning.layer_lr_decay=-1",), "layer_lr_decay=-1; it must be more than 0"),
        (
            ("tuning=full", "tuning.layer_lr_decay=0.5", "tuning.rules=[{match: .}]"),
            "tuning.layer_lr_decay=0.5 has no effect: no rule in tuning.rules",
        ),
        (("tuning.rules=[{match: .}]",), "tuning.stem_lr_scale=0.1 has no effect: no rule in tuning.rules"),
        (("tuning=frozen", "tuning.stem_lr_scale=0.3"), "tuning.stem_lr_scale=0.3 has no effect"),
        (("tuning=full", "+tuning.unfreez_at=0.3"), "no setting tuning.unfreez_at. Did you mean unfreeze_at"),
        (
            ("tuning=full", "tuning.warmup=100"),
            "tuning.warmup=100 has no effect: the same parameters train throughout. For the start",
        ),
        (
            ("tuning=full", "tuning.phase_lr=[1.0,0.5]"),
            "tuning.phase_lr=[1.0, 0.5] has no effect: the same parameters train",
        ),
        (("tuning=full", "tuning.restart_schedule=true"), "tuning.restart_schedule=True has no effect"),
        (
            ("tuning=gradual", "tuning.plateau.patience=5"),
            "tuning.plateau.patience=5 has no effect: no rule waits for",
        ),
        (("tuning=lora", "tuning.l2_sp=0.1"), "tuning.l2_sp=0.1 pulls the backbone to its pretrained weights; with"),
        (
            ("+optimizer.momentum=0.5",),
            "To pass it on as it is: +optimizer.options.momentum=...",
        ),
        (("+optimizer.options.weight_decay=0.3",), "optimizer.options.weight_decay has no effect"),
        (("tuning=frozen", "tuning.rules=[{match: .}]"), "tuning.unfreeze_at=never has no effect"),
        (("tuning.unfreeze_at=soon",), "'soon' is no"),
        (("tuning.l2_sp=-1",), "tuning.l2_sp=-1: expected a number of 0 or more"),
        (("tuning.unfreeze_at=plateau", "tuning.plateau.monitor=val/iuo"), "tuning.plateau.monitor='val/iuo' is not"),
        (
            ("tuning.unfreeze_at=plateau", "tuning.plateau.monitor=val/loss", "tuning.plateau.mode=max"),
            "Set tuning.plateau.mode=min",
        ),
        (("schedule=plateau", "schedule.monitor=train/loss"), "schedule.monitor='train/loss' is not"),
        (
            ("tuning=gradual", "tuning.restart_schedule=true", "schedule.warmup=9"),
            "schedule.warmup=9 is in steps, but tuning.restart",
        ),
        (("tuning.plateau.restore_best=true", "average=ema"), "which an average of"),
        (("tuning=full", "tuning.rules=[{match:'.',train: [[0,plateau]]}]"), "nothing trains"),
        (("tuning.rules=[{match:5}]",), "tuning.rules=[{'match': 5}]: expected a list of rules"),
        (("tuning.rules=[backbone]",), "expected a list of groups of settings"),
        (("tuning.rules=null",), "tuning.rules=None: expected a list"),
        (("tuning.rules=[{match:.,lr_scale:fast}]",), "has lr_scale=fast; it must be a number"),
        (("tuning.phase_lr=0.5",), "tuning.phase_lr=0.5"),
        (("tuning.warmup=abc",), "tuning.warmup=abc"),
        (("tuning.lora=true",), "tuning.lora=True: expected a group"),
        (("tuning.unfreeze_at=null",), "null is the end"),
        (
            ("tuning.unfreeze_at=5", "+trainer.max_steps=6", "data.batch_size=2"),
            "after 5 epochs, but the training has only 2",
        ),
        (("tuning=frozen", "tuning.norms=adapt", "backbone.name=test_convnext.r160_in1k"), "no batch norm"),
        (("tuning=gradual", "tuning.restart_schedule=true", "schedule=plateau"), "plateau waits for a score"),
        (("plan.images=0",), "plan.images=0"),
        (("plan.measure=3",), "plan.measure=3"),
        (("plan.figure=plans/new",), "plan.figure='plans/new': expected a file ending in .png, .svg or .pdf"),
        (("plan.figure=/proc/x/plan.png",), "'/proc/x/plan.png' cannot be written to"),
        (("tuning=lora", "tuning.lora.targets=nothing_like_it"), "nothing_like_it"),
        (("tuning=lora", "tuning.lora.rank=0"), "rank=0"),
    ],
)
def test_an_invalid_plan_is_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...], message: str
) -> None:
    assert exit_code("plan", *OVERRIDES, *overrides) == 2
    assert message in capsys.readouterr().err
    assert not listing(folder)


def test_a_figure_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plan.png").write_text("mine")
    assert exit_code("plan", *OVERRIDES, "plan.figure=plan.png") == 2
    assert (folder / "plan.png").read_text() == "mine"


def test_a_plan_fetches_no_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested = []

    def arguments(name: str, weights: str) -> dict[str, Any]:
        requested.append(weights)
        return {"pretrained": False}

    monkeypatch.setattr("finetune.models.timm_factory.pretrained_arguments", arguments)
    finetune.plan(*OVERRIDES, "backbone.name=resnet18.a1_in1k", "backbone.weights=pretrained", "trainer.max_epochs=1")
    assert requested == ["none"]


@pytest.mark.slow
def test_a_sweep_writes_a_figure_for_each_job(folder: Path) -> None:
    overrides = ("trainer.max_epochs=4", "tuning=full,head_then_full,frozen", "hydra.sweep.dir=sweep")
    assert exit_code("plan", "-m", *OVERRIDES, *overrides) == 0
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.png")} == {
        f"sweep/{i}/plan.png" for i in range(3)
    }


def test_a_closed_pipe_ends_the_command_without_a_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert exit_code("plan", *OVERRIDES) == 141
        monkeypatch.undo()
    assert capfd.readouterr().err == ""


def test_placeholders_stand_for_settings_that_the_training_searches(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("optimizer.lr=auto", "data.batch_size=largest", "trainer.devices=2", "trainer.max_epochs=2")
    assert exit_code("plan", *OVERRIDES, *overrides) == 0
    assert "optimizer.lr=auto is searched by the training; 0.001 stands for it here" in capsys.readouterr().out


def test_limits_of_the_trainer_shorten_the_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune.plan(*OVERRIDES, "trainer.max_epochs=10", "+trainer.max_steps=5", "data.count=16", "data.batch_size=2")
    assert "1 epochs of 8 steps" in capsys.readouterr().out
    finetune.plan(*OVERRIDES, "trainer.max_epochs=2", "+trainer.limit_train_batches=1", "plan.figure=second.png")
    assert "2 epochs of 1 steps" in capsys.readouterr().out
