"""From overrides to a config, and the messages about invalid overrides."""

import json
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import finetune
from finetune.builders.checks.training import check
from finetune.config.compose import compose, load_config, required, to_plain_dict
from finetune.config.errors import ConfigError, mistakes_of, raise_mistakes
from finetune.config.explain import check_group_choices


def error_message(*overrides: str, command: str = "train") -> str:
    with pytest.raises(ConfigError) as caught:
        compose(*overrides, command=command)
    return str(caught.value)


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(load_config(["data=synthetic", "data.count=4", *overrides], "train"))
    return str(caught.value).splitlines()


ONE_IMAGE = ("data.batch_size=1", "data.size=64", "augment.crop=64", "backbone.weights=none", "head=fpn")


@pytest.mark.parametrize("name", ["resnest14d", "skresnet18", "rexnet_100"])
def test_a_backbone_with_batch_norm_on_one_pixel_is_refused_at_batch_size_one(name: str) -> None:
    (message,) = problems(*ONE_IMAGE, "backbone=timm", f"backbone.name={name}")
    assert (
        f"batches of one image do not train backbone={name} with head=fpn: they leave the batch norm backbone."
        in message
    )
    assert "data.batch_size=2 or more" in message


@pytest.mark.parametrize("overrides", [("backbone.name=rexnet_100", "tuning=frozen"), ("backbone.name=resnet18",)])
def test_a_backbone_that_is_frozen_or_has_no_such_norm_is_accepted_at_batch_size_one(
    overrides: tuple[str, ...],
) -> None:
    check(load_config(["data=synthetic", "data.count=4", *ONE_IMAGE, "backbone=timm", *overrides], "train"))


@pytest.mark.parametrize(
    ("override", "expected"),
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
def test_a_misspelled_override_shows_the_nearest(override: str, expected: str) -> None:
    message = error_message(override)
    wrong = override.strip("~").split("=")
    assert wrong[0] in message
    assert f"Did you mean {expected}" in message or f" or {expected}" in message


def test_an_unknown_option_shows_all_options() -> None:
    assert "Choose from: adamw, sgd." in error_message("optimizer=xyz")
    assert "backbone=timm backbone.name=NAME" in error_message("backbone=densenet121")


def test_a_key_of_another_command_is_refused_with_that_commands_keys() -> None:
    assert "Did you mean split" in error_message("splt=val", command="evaluate")
    assert "Did you mean input" in error_message("inptu=val", command="predict")
    assert "Did you mean optimizer" not in error_message("optimizer.lr=3", command="evaluate")


def test_a_setting_of_another_option_is_not_suggested() -> None:
    message = error_message("data=synthetic", "data.root=photos")
    assert "data.root" in message
    assert "Did you mean data.root" not in message


def test_an_unknown_key_in_a_value_is_named() -> None:
    message = error_message("optimizer.options={betas: [0.9, 0.99]}")
    assert "Did you mean optimizer.options " not in message
    assert "betas" in message


@pytest.mark.parametrize("override", ["seed", "seed=[1", "data.root='a", "backbone=3", "head=[unet,fpn]"])
def test_an_override_with_a_syntax_error_is_shown(override: str) -> None:
    assert override in error_message(override)


def test_an_unknown_setting_of_a_component_shows_the_nearest() -> None:
    assert problems("loss=focal", "+loss.gama=3") == ["there is no setting loss.gama. Did you mean gamma?"]
    assert "Did you mean attention_type" in problems("+head.atention_type=scse")[0]
    assert "Did you mean min_epochs" in problems("+trainer.min_epoch=3")[0]
    assert "Did you mean lr_scale" in problems("tuning.rules=[{match: ., lr_scal: 3}]")[0]
    assert "Did you mean flip" in problems("+augment.flipp=0.5")[0]


def test_an_unknown_setting_of_the_data_is_named() -> None:
    assert "class_wieghts" in problems("+data.class_wieghts=none")[0]


@pytest.mark.parametrize(
    ("override", "expected"),
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
def test_an_unknown_name_shows_the_nearest(override: str, expected: str) -> None:
    (message,) = problems(override)
    assert override.split("=")[1] in message
    assert expected in message


@pytest.mark.parametrize(
    "override",
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
    ],
)
def test_an_invalid_number_is_refused_before_anything_is_read(override: str) -> None:
    assert override.split("=")[0].rpartition(".")[2] in " ".join(problems(override))


def test_all_mistakes_are_reported_together() -> None:
    message = problems(
        "head.name=unett",
        "+loss.gama=2",
        "optimizer.name=adamww",
        "schedule.name=polly",
        "backbone.name=resnt18",
        "tuning.rules=[{match: '('}]",
        "trainer.max_epochs=0",
        "augment.flip=7",
    )
    assert len(message) == 8
    for part in ("unett", "gama", "adamww", "polly", "resnt18", "'('", "max_epochs", "flip"):
        assert sum(part in line for line in message) == 1, part


def refuse(number: int) -> None:
    raise ValueError(f"{number} is refused")


def test_mistakes_of_several_checks_are_raised_together() -> None:
    raise_mistakes(mistakes_of((abs, str), 3))
    with pytest.raises(ConfigError, match=r"^3 is refused\nand another$"):
        raise_mistakes([*mistakes_of((abs, refuse), 3), "and another"])


def test_an_error_that_is_not_a_mistake_of_the_user_is_not_collected() -> None:
    with pytest.raises(ZeroDivisionError):
        mistakes_of((lambda number: 1 / number,), 0)


def test_the_overrides_in_python_are_those_of_the_command_line() -> None:
    config = finetune.compose("backbone=resnet50", "optimizer.lr=3e-4", "data.classes=[a,b]")
    assert config.backbone.name == "resnet50.a1_in1k"
    assert config.optimizer.lr == 3e-4
    assert list(config.data.classes) == ["a", "b"]


def test_a_plain_config_has_all_interpolations_resolved() -> None:
    config = to_plain_dict(compose("tuning.backbone_lr_scale=0.1", "name=pets"))
    assert config["tuning"]["rules"][0]["lr_scale"] == 0.1
    assert config["output"].startswith("outputs/pets/20")


def test_a_missing_value_or_interpolation_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="Missing mandatory value"):
        to_plain_dict(OmegaConf.create({"a": "???"}))
    with pytest.raises(ConfigError, match="nowhere"):
        to_plain_dict(OmegaConf.create({"a": "${nowhere}"}))


def test_the_data_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(["data.root=photos"], "train")["data"]["root"] == str(tmp_path.resolve() / "photos")
    assert load_config([compose("data.root=photos")], "train")["data"]["root"] == str(tmp_path.resolve() / "photos")
    assert load_config(["run=x"], "evaluate")["data"]["root"] is None


def test_paths_may_start_with_the_home_folder_and_weights_are_found_from_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pth").touch()
    trained = load_config(["output=~/runs/a", "init_from=~/b", "backbone.weights=~/w.pth"], "train")
    assert (trained["output"], trained["init_from"]) == (str(tmp_path / "runs" / "a"), str(tmp_path / "b"))
    assert trained["backbone"]["weights"] == str(tmp_path / "w.pth")
    predicted = load_config(["run=[~/a,b]", "input=~/photos"], "predict")
    assert (predicted["run"], predicted["input"]) == ([str(tmp_path / "a"), "b"], str(tmp_path / "photos"))
    monkeypatch.chdir(tmp_path)
    objects = load_config(["task=instance", "head.weights=w.pth", "backbone.weights=none"], "train")
    assert objects["head"]["weights"] == str(tmp_path / "w.pth")
    (tmp_path / "none").touch()
    (tmp_path / "link.safetensors").symlink_to("w.pth")
    assert load_config(["backbone.weights=none"], "train")["backbone"]["weights"] == "none"
    linked = load_config(["backbone.weights=link.safetensors"], "train")["backbone"]["weights"]
    assert linked == str(tmp_path / "link.safetensors")
    assert load_config(["plan.figure=~/p.png"], "plan")["plan"]["figure"] == str(tmp_path / "p.png")


def test_a_missing_required_key_is_named() -> None:
    assert required({"run": "a"}, "run") == "a"
    with pytest.raises(ConfigError, match="run is not set"):
        required({"run": None}, "run")


def test_unknown_options_of_several_groups_are_reported_together() -> None:
    message = error_message("loss=focl", "optimizer=adm", "head=unett")
    assert len(message.splitlines()) == 3
    assert all(name in message for name in ("focal", "adamw", "unet"))


@pytest.mark.parametrize("override", ["name=null", "loss.dice_weight=-1", "loss.label_smoothing=1"])
def test_a_value_without_a_meaning_is_refused(override: str) -> None:
    assert override.split("=")[0].split(".")[-1] in problems(override)[0]


def test_a_new_key_of_a_group_shows_how_to_add_it() -> None:
    with pytest.raises(ConfigError, match=r"To add it anyway: \+backbone\.options\.drop_path_rate=\.\.\."):
        compose("backbone.options={drop_path_rate: 0.1}")
    assert compose("+backbone.options.drop_path_rate=0.1").backbone.options == {"drop_path_rate": 0.1}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+loss=dice"], r"loss is there already: leave out the \+"),
        (["+experiment=camvid"], r"experiment is there already: leave out the \+"),
        (["loss=null"], "loss has no option 'null'"),
        (["logger=null"], "logger has no option 'null'"),
        (["post=[smooth,nothing]"], "post has no option 'nothing'"),
        (["post=smooth,min_size"], r"post takes options in their order, such as \[smooth,min_size\]"),
        (["foo/bar=x"], "there is no setting 'foo/bar'"),
        (["data.classes={Straße: 0, Himmel: 1}"], r"ASCII letters only\. Give names and values as lists"),
    ],
)
def test_a_choice_that_does_not_fit_is_explained(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(*overrides, command="predict" if "post" in overrides[0] else "train")


@pytest.mark.parametrize(
    ("post", "names"), [("[]", []), ("[ smooth ]", ["smooth"]), ("[smooth,'min_size']", ["smooth", "min_size"])]
)
def test_lists_of_options_may_be_empty_spaced_and_quoted(post: str, names: list[str]) -> None:
    assert list(compose(f"post={post}", command="predict").get("post") or {}) == names


def test_a_name_on_the_hub_stays_a_name_and_a_folder_becomes_a_full_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub = load_config(["data=hf", "data.root=segments/sidewalk-semantic"], "train")
    assert hub["data"]["root"] == "segments/sidewalk-semantic"
    (tmp_path / "saved").mkdir()
    assert load_config(["data=hf", "data.root=saved"], "train")["data"]["root"] == str(tmp_path / "saved")
    assert load_config(["data.root=missing"], "train")["data"]["root"] == str(tmp_path / "missing")


@pytest.mark.parametrize("key", ["init_from", "data.root", "data.splits", "backbone.weights"])
def test_an_empty_value_of_a_variable_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key} is empty.*a variable of the shell may not be set"):
        load_config([f"{key}="], "train")


@pytest.mark.parametrize("key", ["data.root", "output"])
def test_a_path_that_is_not_utf_8_is_refused_before_anything_is_written(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}=b'l\\xe4t' is not UTF-8.*Rename the file or folder"):
        load_config([f"{key}={os.fsdecode(b'l' + bytes([0xE4]) + b't')}"], "train")


def test_overrides_in_python_are_texts_or_one_config() -> None:
    for given in ([compose("seed=1"), "seed=2"], [["seed=1"]], [{"seed": 1}]):
        with pytest.raises(ConfigError, match=r"got an override of type \w+: expected texts, as in train\('seed=1'"):
            load_config(given, "train")  # type: ignore[arg-type]  # what people try


def test_a_mapping_may_be_written_as_in_python() -> None:
    classes = {"road": "#804080", "traffic light": [19, 20]}
    assert load_config([f"data.classes={classes}"], "train")["data"]["classes"] == classes
    assert load_config([f"data.classes={json.dumps(classes)}"], "train")["data"]["classes"] == classes
    rules = [{"match": "head", "train": [[0, None]], "weight_decay": None}]
    assert load_config(["tuning=full", f"tuning.rules={rules}"], "train")["tuning"]["rules"] == rules


def test_what_options_build_on_is_no_option() -> None:
    assert "base" not in error_message("data=foldr")
    assert "data has no option 'base'" in error_message("data=base")


def test_a_sweep_may_choose_options_of_ones_own(tmp_path: Path) -> None:
    own = f"hydra.searchpath=[file://{tmp_path}]"
    check_group_choices([own, "augment=mine,none"], is_sweep=True)
    with pytest.raises(ConfigError, match="augment has no option 'mine'"):
        check_group_choices(["augment=mine,none"], is_sweep=True)
