"""Find mistakes in a tuning plan before there is a model to tune."""

from finetune.builders.task import build_plan
from finetune.config.compose import packaged_options
from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.tuning.plan import Plan

# settings of conf/tuning -> fields of the rules that use them
RULE_FIELDS = {
    "unfreeze_at": "train",
    "unfreeze_stagger": "stagger",
    "backbone_lr_scale": "lr_scale",
    "stem_lr_scale": "lowest_lr_scale",
    "layer_lr_decay": "layer_lr_decay",
    "norms": "norms",
}


def check_tuning(config: Config) -> None:
    """Raise a ConfigError unless the plan and its penalties make sense for any model."""
    settings = config["tuning"]
    plan = build_plan(settings)
    _check_used(settings, plan)
    _check_phases(settings, plan, config["checkpoint"])
    for key in ("l1", "l2_sp"):
        if not settings[key] >= 0:
            raise ConfigError(f"tuning.{key}={settings[key]}: expected a number of 0 or more.")
    if settings["lora"] is not None and settings["l2_sp"]:
        raise ConfigError(
            f"tuning.l2_sp={settings['l2_sp']} pulls the backbone to its pretrained weights; with tuning.lora it "
            f"keeps them, and adapters train. optimizer.weight_decay pulls these towards 0, which is the same."
        )
    if settings["restart_schedule"]:
        _check_restart(config["schedule"])
    if config["trainer"].get("limit_val_batches") == 0:
        _check_needs_no_score(config["schedule"], plan)


def _check_needs_no_score(schedule: Config, plan: Plan) -> None:
    """Raise a ConfigError if the schedule or the plan waits for a score, which no validation will give."""
    waiting = ["schedule=plateau"] if schedule["name"] == "plateau" else []
    waiting += ["the tuning plan"] if _waits(plan) else []
    if waiting:
        raise ConfigError(
            f"trainer.limit_val_batches=0 gives no score for {' and '.join(waiting)} to wait for. Leave the limit out, "
            f"or set another schedule and tuning.unfreeze_at=0.3."
        )


def _waits(plan: Plan) -> bool:
    """Return whether a rule waits for a plateau of the score."""
    rules = [rule for rule in plan.rules if not rule.never_trains]
    return any(rule.stagger == "plateau" or "plateau" in str(rule.spans) for rule in rules)


def _check_used(settings: Config, plan: Plan) -> None:
    """Raise a ConfigError if a changed setting is used by no rule.

    With `unfreeze_at=never`, a setting may have the value of a preset, as presets have rates for what could train.
    """
    presets = packaged_options("tuning")
    defaults, frozen = presets["full"], settings["unfreeze_at"] == "never"
    for key, field in RULE_FIELDS.items():
        if frozen and key != "unfreeze_at" and any(p.get(key) == settings[key] for p in presets.values()):
            continue
        rules = [rule for rule in plan.rules if key in ("unfreeze_at", "norms") or not rule.never_trains]
        if key == "unfreeze_at":
            used = {start for rule in rules for start, _ in rule.spans}
        else:
            used = {getattr(rule, field) for rule in rules}
        if settings[key] != defaults[key] and settings[key] not in used:
            raise ConfigError(
                f"tuning.{key}={settings[key]} has no effect: no rule in tuning.rules that trains uses it. Write it "
                f"into a rule, such as {{match: backbone, {field}: ...}}, or leave it out, as tuning=full does."
            )


def _check_phases(settings: Config, plan: Plan, followed: Config) -> None:
    """Raise a ConfigError if a phase or plateau setting was changed but the plan has none.

    Args:
        settings: those of `tuning`.
        plan: made of them.
        followed: those of `checkpoint`, whose monitor and mode a plateau has too unless it names others.
    """
    defaults, rules = packaged_options("tuning")["full"], [rule for rule in plan.rules if not rule.never_trains]
    plateau_defaults = {**defaults["plateau"], "monitor": followed["monitor"], "mode": followed["mode"]}
    has_phases = any(rule.stagger or rule.spans != ((0, None),) for rule in rules)
    for key in ("warmup", "restart_schedule", "phase_lr"):
        if settings[key] != defaults[key] and not has_phases:
            other = " For the start of the training there is schedule.warmup." if key == "warmup" else ""
            raise ConfigError(
                f"tuning.{key}={settings[key]} has no effect: the same parameters train throughout.{other} "
                f"Unfreeze something later, for example with tuning.unfreeze_at=0.3, or leave it out."
            )
    changed = [key for key, value in settings["plateau"].items() if value != plateau_defaults.get(key)]
    if changed and not _waits(plan):
        raise ConfigError(
            f"tuning.plateau.{changed[0]}={settings['plateau'][changed[0]]} has no effect: no rule waits for one. "
            f"Set tuning.unfreeze_at=plateau, or leave it out."
        )


def _check_restart(schedule: Config) -> None:
    """Raise a ConfigError if the schedule cannot start again in each phase."""
    if schedule["name"] == "plateau":
        raise ConfigError(
            "tuning.restart_schedule=true starts the schedule again in each phase, but schedule=plateau waits for a "
            "score and has no length. Set tuning.restart_schedule=false, or another schedule."
        )
    for key in ("warmup", "step_size", "decay", "milestones"):
        lengths = schedule.get(key, 0)
        if any(
            isinstance(length, int) and length > 0 for length in (lengths if isinstance(lengths, list) else [lengths])
        ):
            raise ConfigError(
                f"schedule.{key}={lengths} is in steps, but tuning.restart_schedule=true starts the schedule again in "
                f"phases of different lengths. Give a fraction of each phase, such as 0.05."
            )


def check_average(config: Config) -> None:
    """Raise a ConfigError if a plateau would restore the best weights, while an average of later weights goes on."""
    if config["tuning"]["plateau"]["restore_best"] and config["callbacks"].get("average"):
        raise ConfigError(
            "tuning.plateau.restore_best=true restores earlier weights, which an average of later weights would not "
            "follow. Set average=none, or tuning.plateau.restore_best=false."
        )
