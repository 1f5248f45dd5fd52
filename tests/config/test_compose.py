"""From words to a config, and what is said about words that do not fit."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import finetune
from finetune.builders.checks.training import check
from finetune.config.compose import compose, load_config, required, to_plain_dict
from finetune.config.errors import ConfigError, mistakes_of, raise_mistakes


def message(*words: str, command: str = "train") -> str:
    with pytest.raises(ConfigError) as caught:
        compose(*words, command=command)
    return str(caught.value)


def problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(load_config(["data=synthetic", "data.count=4", *words], "train"))
    return str(caught.value).splitlines()


ALONE = ("data.batch_size=1", "data.size=64", "augment.crop=64", "backbone.weights=none", "head=fpn")


@pytest.mark.parametrize("name", ["resnest14d", "skresnet18", "rexnet_100"])
def test_a_backbone_that_pools_to_a_pixel_is_not_trained_by_batches_of_one(name: str) -> None:
    (said,) = problems(*ALONE, "backbone=timm", f"backbone.name={name}")
    assert (
        f"batches of one image do not train backbone={name} with head=fpn: they leave the batch norm backbone." in said
    )
    (said,) = problems(*ALONE, "backbone=timm", f"backbone.name={name}", "data.batch_size=2", "trainer.devices=4")
    assert "data.batch_size=2 or more" in said


@pytest.mark.parametrize("words", [("backbone.name=rexnet_100", "tuning=frozen"), ("backbone.name=resnet18",)])
def test_batches_of_one_train_what_pools_to_no_pixel_or_rests(words: tuple[str, ...]) -> None:
    check(load_config(["data=synthetic", "data.count=4", *ALONE, "backbone=timm", *words], "train"))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("seeed=3", "seed"),
        ("optimizer.lrr=3", "optimizer.lr"),
        ("optimiser.lr=3", "optimizer.lr"),
        ("trainer.max_epoch=3", "trainer.max_epochs"),
        ("lr=3", "optimizer.lr"),
        ("data.bach_size=3", "data.batch_size"),
        ("callbacks.early_stopping.patiance=3", "callbacks.early_stopping.patience"),
        ("~callbacks.early_stoping", "callbacks.early_stopping"),
        ("hed=unet", "head"),
        ("bakbone=resnet18", "backbone"),
        ("head=unett", "unet"),
        ("head=deeplab", "deeplabv3plus"),
        ("backbone=resnet81", "resnet18"),
        ("loss=cross_entrpy", "cross_entropy"),
        ("tuning=frozn", "frozen"),
        ("experiment=quickstrt", "quickstart"),
    ],
)
def test_a_misspelt_word_shows_the_nearest(word: str, expected: str) -> None:
    said = message(word)
    wrong = word.strip("~").split("=")
    assert wrong[0] in said
    assert f"Did you mean {expected}" in said or f" or {expected}" in said


def test_an_unknown_answer_shows_all_there_are() -> None:
    assert "Choose from: adamw, sgd." in message("optimizer=xyz")
    assert "backbone=timm backbone.name=NAME" in message("backbone=densenet121")


def test_a_key_of_another_command_is_refused_with_that_commands_keys() -> None:
    assert "Did you mean split" in message("splt=val", command="evaluate")
    assert "Did you mean input" in message("inptu=val", command="predict")
    assert "Did you mean optimizer" not in message("optimizer.lr=3", command="evaluate")


def test_a_setting_of_another_answer_is_not_suggested_as_if_it_were_there() -> None:
    said = message("data=synthetic", "data.root=photos")
    assert "data.root" in said
    assert "Did you mean data.root" not in said


def test_an_unknown_key_in_a_value_is_named() -> None:
    said = message("optimizer.options={betas: [0.9, 0.99]}")
    assert "Did you mean optimizer.options " not in said
    assert "betas" in said


@pytest.mark.parametrize("word", ["seed", "seed=[1", "data.root='a", "backbone=3", "head=[unet,fpn]"])
def test_a_word_that_cannot_be_read_is_shown(word: str) -> None:
    assert word in message(word)


def test_an_option_that_a_part_does_not_have_shows_the_nearest() -> None:
    assert problems("loss=focal", "+loss.gama=3") == ["there is no setting loss.gama. Did you mean gamma?"]
    assert "Did you mean attention_type" in problems("+head.atention_type=scse")[0]
    assert "Did you mean min_epochs" in problems("+trainer.min_epoch=3")[0]
    assert "Did you mean lr_scale" in problems("tuning.rules=[{match: ., lr_scal: 3}]")[0]
    assert "Did you mean flip" in problems("+augment.flipp=0.5")[0]


def test_an_option_that_the_data_does_not_have_shows_the_nearest() -> None:
    assert "class_wieghts" in problems("+data.class_wieghts=none")[0]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("backbone.name=resnt18", "resnet18"),
        ("head.name=unett", "unet"),
        ("loss.name=focl", "focal"),
        ("optimizer.name=adamww", "adamw"),
        ("schedule.name=cosin", "cosine"),
        ("loss.class_weights=inverse_sqr", "inverse_sqrt"),
        ("callbacks.early_stopping.monitor=val/iuo", "val/iou"),
        ("callbacks.checkpoint.monitor=val/los", "val/loss"),
    ],
)
def test_an_unknown_name_shows_the_nearest(word: str, expected: str) -> None:
    (said,) = problems(word)
    assert word.split("=")[1] in said
    assert expected in said


@pytest.mark.parametrize(
    "word",
    [
        "data.batch_size=0",
        "data.batch_size=2.5",
        "data.num_workers=-1",
        "data.count=0",
        "data.size=0",
        "data.ignore_index=300",
        "backbone.in_channels=5",
        "optimizer.lr=abc",
        "optimizer.lr=-1",
        "optimizer.weight_decay=-1",
        "schedule.warmup=-1",
        "seed=-1",
        "seed=abc",
        "augment.crop=0",
        "augment.flip=7",
        "trainer.max_epochs=abc",
        "trainer.devices=9",
    ],
)
def test_a_number_that_makes_no_sense_is_refused_before_anything_is_read(word: str) -> None:
    assert word.split("=")[0].rpartition(".")[2] in " ".join(problems(word))


def test_all_mistakes_are_reported_together() -> None:
    said = problems(
        "head.name=unett",
        "+loss.gama=2",
        "optimizer.name=adamww",
        "schedule.name=polly",
        "backbone.name=resnt18",
        "tuning.rules=[{match: '('}]",
        "trainer.max_epochs=0",
        "augment.flip=7",
    )
    assert len(said) == 8
    for part in ("unett", "gama", "adamww", "polly", "resnt18", "'('", "max_epochs", "flip"):
        assert sum(part in line for line in said) == 1, part


def refuse(number: int) -> None:
    raise ValueError(f"{number} is refused")


def test_mistakes_of_several_checks_are_raised_together() -> None:
    raise_mistakes(mistakes_of((abs, str), 3))
    with pytest.raises(ConfigError, match=r"^3 is refused\nand another$"):
        raise_mistakes([*mistakes_of((abs, refuse), 3), "and another"])


def test_an_error_that_is_no_mistake_of_the_user_is_not_collected() -> None:
    with pytest.raises(ZeroDivisionError):
        mistakes_of((lambda number: 1 / number,), 0)


def test_the_words_in_python_are_those_of_the_shell() -> None:
    config = finetune.compose("backbone=resnet50", "optimizer.lr=3e-4", "data.classes=[a,b]")
    assert config.backbone.name == "resnet50.a1_in1k"
    assert config.optimizer.lr == 3e-4
    assert list(config.data.classes) == ["a", "b"]


def test_a_plain_config_has_every_reference_resolved() -> None:
    config = to_plain_dict(compose("tuning.backbone_lr_scale=0.1", "name=pets"))
    assert config["tuning"]["rules"][0]["lr_scale"] == 0.1
    assert config["output"].startswith("outputs/pets/20")


def test_a_missing_value_or_a_loose_reference_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="Missing mandatory value"):
        to_plain_dict(OmegaConf.create({"a": "???"}))
    with pytest.raises(ConfigError, match="nowhere"):
        to_plain_dict(OmegaConf.create({"a": "${nowhere}"}))


def test_the_data_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(["data.root=photos"], "train")["data"]["root"] == str(tmp_path.resolve() / "photos")
    assert load_config([compose("data.root=photos")], "train")["data"]["root"] == str(tmp_path.resolve() / "photos")
    assert load_config(["run=x"], "evaluate")["data"]["root"] is None


def test_a_required_key_is_asked_for() -> None:
    assert required({"run": "a"}, "run") == "a"
    with pytest.raises(ConfigError, match="run is not set"):
        required({"run": None}, "run")


def test_wrong_answers_to_several_groups_are_reported_together() -> None:
    said = message("loss=focl", "optimizer=adm", "head=unett")
    assert len(said.splitlines()) == 3
    assert all(name in said for name in ("focal", "adamw", "unet"))


@pytest.mark.parametrize("word", ["name=null", "loss.dice_weight=-1", "loss.label_smoothing=1"])
def test_a_value_without_a_meaning_is_refused(word: str) -> None:
    assert word.split("=")[0].split(".")[-1] in problems(word)[0]


def test_a_new_setting_inside_a_group_is_told_how_it_is_added() -> None:
    with pytest.raises(ConfigError, match=r"To add it all the same: \+backbone\.options\.drop_path_rate=\.\.\."):
        compose("backbone.options={drop_path_rate: 0.1}")
    assert compose("+backbone.options.drop_path_rate=0.1").backbone.options == {"drop_path_rate": 0.1}
