"""Finds mistakes in a tuning plan before there is a model to tune."""

from finetune.builders.task import build_plan
from finetune.config.compose import packaged_options
from finetune.config.errors import ConfigError
from finetune.config.options import Config, validate_options
from finetune.io.messages import suggest
from finetune.models.lora import add_lora
from finetune.tuning.plan import Plan

# settings of conf/tuning and the fields of the rules that take them up
KNOBS = {
    "unfreeze_stagger": "stagger",
    "backbone_lr_scale": "lr_scale",
    "stem_lr_scale": "lowest_lr_scale",
    "layer_lr_decay": "layer_lr_decay",
    "norms": "norms",
}


def check_tuning(settings: Config, pace: Config) -> None:
    """Raise unless the plan and its penalties make sense, whatever the model is."""
    _check_names(settings)
    plan = build_plan(settings)
    _check_knobs(settings, plan)
    _check_phases(settings, plan)
    for key in ("l1", "l2_sp"):
        value = settings[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise ConfigError(f"tuning.{key}={value}: expected a number of 0 or more.")
    if settings["lora"] is not None:
        if not isinstance(settings["lora"], dict):
            raise ConfigError(
                f"tuning.lora={settings['lora']}: expected a group such as {{rank: 8, alpha: 16}}, or null."
            )
        validate_options("tuning.lora", add_lora, settings["lora"], skip=("model",))
        if settings["l2_sp"]:
            raise ConfigError(
                f"tuning.l2_sp={settings['l2_sp']} pulls the backbone to its pretrained weights; with tuning.lora it "
                f"keeps them, and adapters train. optimizer.weight_decay pulls these towards 0, which is the same."
            )
    if settings["restart_schedule"]:
        _check_restart(pace)


def _check_names(settings: Config) -> None:
    """Raise where a setting has a name that no answer of conf/tuning has."""
    known = {key for answer in packaged_options("tuning").values() for key in answer}
    if unknown := [key for key in settings if key not in known]:
        raise ConfigError(
            f"there is no setting tuning.{unknown[0]}. {suggest(unknown[0], sorted(known - {'defaults'}))}"
        )


def _check_knobs(settings: Config, plan: Plan) -> None:
    """Raise where a setting was changed that no rule takes up: rules of one's own may leave it out, or never train."""
    usual = packaged_options("tuning")["full"]
    for key, field in {"unfreeze_at": "train", **KNOBS}.items():
        rules = [rule for rule in plan.rules if key in ("unfreeze_at", "norms") or not rule.never_trains]
        if key == "unfreeze_at":
            taken = {start for rule in rules for start, _ in rule.spans}
        else:
            taken = {getattr(rule, field) for rule in rules}
        if settings[key] != usual[key] and settings[key] not in taken:
            raise ConfigError(
                f"tuning.{key}={settings[key]} has no effect: none of tuning.rules takes it up and trains. Write it "
                f"into a rule, such as {{match: backbone, {field}: ...}}, or leave it out, as tuning=full does."
            )


def _check_phases(settings: Config, plan: Plan) -> None:
    """Raise where a setting was changed that is about phases, or plateaus, of a plan that has none."""
    usual, moments = packaged_options("tuning")["full"], [rule for rule in plan.rules if not rule.never_trains]
    changes = any(rule.stagger or rule.spans != ((0, None),) for rule in moments)
    plateaus = any(rule.stagger == "plateau" or "plateau" in str(rule.spans) for rule in moments)
    for key in ("warmup", "restart_schedule", "phase_lr"):
        if settings[key] != usual[key] and not changes:
            other = " For the start of the training there is schedule.warmup." if key == "warmup" else ""
            raise ConfigError(
                f"tuning.{key}={settings[key]} has no effect: what trains never changes.{other} Let something unfreeze "
                f"later, such as by tuning.unfreeze_at=0.3, or leave it out."
            )
    changed = [key for key, value in settings["plateau"].items() if value != usual["plateau"].get(key)]
    if changed and not plateaus:
        raise ConfigError(
            f"tuning.plateau.{changed[0]}={settings['plateau'][changed[0]]} has no effect: no rule waits for one. Say "
            f"tuning.unfreeze_at=plateau, or leave it out."
        )


def _check_restart(pace: Config) -> None:
    if pace["name"] == "plateau":
        raise ConfigError(
            "tuning.restart_schedule=true begins the schedule anew in each phase, but schedule=plateau waits for a "
            "score and has no length. Set tuning.restart_schedule=false, or another schedule."
        )
    for key in ("warmup", "every", "decay", "milestones"):
        lengths = pace.get(key, 0)
        if any(
            isinstance(length, int) and length > 0 for length in (lengths if isinstance(lengths, list) else [lengths])
        ):
            raise ConfigError(
                f"schedule.{key}={lengths} is in steps, but tuning.restart_schedule=true begins the schedule anew in "
                f"phases of different lengths. Give a share of each phase, such as 0.05."
            )


def check_average(plateau: Config, callbacks: Config) -> None:
    """Raise where weights are put back that an average would go on without."""
    if plateau["restore_best"] and callbacks.get("average"):
        raise ConfigError(
            "tuning.plateau.restore_best=true puts earlier weights back, which an average of the weights since would "
            "not follow. Set average=none, or tuning.plateau.restore_best=false."
        )
