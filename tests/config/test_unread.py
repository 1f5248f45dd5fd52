"""Settings that nothing reads are refused by every command, with the setting that was meant."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from finetune.config.compose import compose, load_config
from finetune.config.errors import ConfigError
from finetune.config.folder import config_folder
from finetune.config.nested import walk
from finetune.config.unread import MEANT, top_keys
from tests.samples import exit_code


@pytest.mark.parametrize(
    ("command", "override", "meant"),
    [
        ("train", "+encoder=resnet34", "Did you mean backbone?"),
        ("train", "+epochs=3", "Did you mean trainer.max_epochs?"),
        ("train", "+lr=1e-3", "Did you mean optimizer.lr?"),
        ("train", "+encoder.name=resnet34", "Did you mean backbone?"),
        ("train", "+seeed=3", "Did you mean seed?"),
        ("train", "+average.decay=0.5", "Did you mean callbacks.average?"),
        ("train", "+experiment.name=x", "nothing reads experiment"),
        ("plan", "+num_classes=3", "nothing reads num_classes=3"),
        ("evaluate", "+batch_size=3", "Did you mean data.batch_size?"),
        (
            "predict",
            "+confidence=0.5",
            "Choose from: tta, post, run, input, output, write, tolerance, threshold, value_range, window, overlap, "
            "batch_size, device, video.",
        ),
        ("predict", "+weights=a.ckpt", "Did you mean run?"),
        ("export", "+opset=17", "nothing reads opset=17"),
        ("list", "+foo=1", "nothing reads foo=1"),
    ],
)
def test_an_added_setting_that_nothing_reads_is_refused_by_every_command(
    command: str, override: str, meant: str
) -> None:
    average = ("average=ema",) if "average" in override else ()
    with pytest.raises(ConfigError) as error:
        load_config([*average, override], command)
    assert meant in str(error.value)


def test_all_unread_settings_are_named_at_once_and_the_command_line_exits_with_two(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", "data=synthetic", "+encoder=resnet34", "+epochs=3") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == [
        "error: nothing reads encoder=resnet34. Did you mean backbone?",
        "nothing reads epochs=3. Did you mean trainer.max_epochs?",
    ]
    assert not list(folder.iterdir())


def test_a_name_of_another_tool_without_the_plus_leads_to_the_setting_and_not_to_the_plus() -> None:
    with pytest.raises(ConfigError) as error:
        compose("epochs=3")
    assert str(error.value) == "there is no setting 'epochs'. Did you mean trainer.max_epochs?"
    with pytest.raises(ConfigError, match=r"To add it anyway: \+trainer.limit_train_batches=3"):
        compose("trainer.limit_train_batches=3")


def test_a_key_that_another_setting_uses_is_read() -> None:
    config = load_config(["data=synthetic", "+scale=2", "seed=${scale}"], "train")
    assert config["seed"] == 2
    with pytest.raises(ConfigError, match="nothing reads scal=2"):
        load_config(["data=synthetic", "+scal=2", "+scale=2", "seed=${scale}"], "train")


def test_every_packaged_option_is_read() -> None:
    groups = {path.parent.name for path in config_folder().glob("*/*.yaml")} - {"hydra", "average", "experiment"}
    assert groups <= {*top_keys("train"), *top_keys("predict")}
    for name in ("camvid", "quickstart"):
        load_config([f"experiment={name}", "data.root=x"] if name == "camvid" else [f"experiment={name}"], "train")


def test_the_settings_that_other_names_stand_for_exist() -> None:
    known = set()
    for command in ("train", "evaluate", "predict"):
        known |= {key for key, _ in walk(OmegaConf.to_container(compose(command=command)))}
    known |= {key for key, _ in walk(OmegaConf.to_container(compose("task=multilabel")))}
    assert set(MEANT) <= known
