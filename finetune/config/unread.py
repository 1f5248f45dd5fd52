"""Settings that nothing reads, and the setting that was probably meant."""

import re
from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from finetune.config.errors import raise_mistakes
from finetune.config.folder import config_folder
from finetune.config.nested import walk
from finetune.io.messages import suggest

# names that other tools have for a setting
MEANT = {
    "backbone": ("arch", "architecture", "encoder", "encoder_name", "model", "model_name"),
    "backbone.grad_checkpointing": ("gradient_checkpointing",),
    "backbone.in_channels": ("channels", "in_chans", "in_channels"),
    "backbone.weights": ("encoder_weights", "pretrained", "weights"),
    "head": ("decoder", "decoder_name"),
    "data.root": ("data_dir", "data_path", "data_root", "dataset", "dataset_dir", "path", "root"),
    "data.classes": ("class_names", "classes", "n_classes", "nc", "num_classes", "num_labels"),
    "data.batch_size": ("batch", "batch_size", "bs", "per_device_train_batch_size", "train_batch_size"),
    "data.num_workers": ("num_workers", "workers"),
    "data.ignore_index": ("ignore_index",),
    "augment": ("aug", "augmentation", "augmentations", "transform", "transforms"),
    "augment.crop": ("crop", "crop_size", "image_size", "img_size", "imgsz", "input_size", "size"),
    "loss": ("criterion",),
    "loss.class_weights": ("class_weight", "class_weights"),
    "task.thresholds": ("threshold", "thresholds"),
    "tuning": ("finetune", "freeze", "freeze_backbone", "preset"),
    "optimizer": ("optim",),
    "optimizer.lr": ("base_lr", "learning_rate", "lr", "lr0"),
    "optimizer.weight_decay": ("wd", "weight_decay"),
    "schedule": ("lr_scheduler", "lr_scheduler_type", "sched", "scheduler"),
    "schedule.warmup": ("warmup", "warmup_epochs", "warmup_ratio", "warmup_steps"),
    "trainer.max_epochs": ("epochs", "max_epochs", "n_epochs", "num_epochs", "num_train_epochs"),
    "trainer.devices": ("device", "devices", "gpus", "n_gpus", "num_gpus"),
    "trainer.accelerator": ("accelerator",),
    "trainer.precision": ("amp", "bf16", "fp16", "precision"),
    "trainer.strategy": ("strategy",),
    "trainer.accumulate_grad_batches": ("accumulate", "accumulation_steps", "gradient_accumulation_steps"),
    "trainer.gradient_clip_val": ("clip_grad", "grad_clip", "max_grad_norm"),
    "callbacks.early_stopping.patience": ("patience",),
    "checkpoint.monitor": ("metric", "metric_for_best_model", "monitor"),
    "output": ("output_dir", "out", "project", "save_dir"),
    "name": ("experiment_name", "run_name"),
    "resume": ("resume_from", "resume_from_checkpoint"),
    "run": ("checkpoint", "ckpt", "ckpt_path", "model", "model_path", "weights"),
    "input": ("image", "image_dir", "images", "source"),
}
# groups whose entries go to Lightning, timm or a class of the user, which check them
OPEN = ("trainer", "callbacks", "logger", "hydra")
ELSEWHERE = ("average", "experiment")  # groups whose options set values of other groups


def check_read(config: DictConfig, command: str) -> None:
    """Raise a ConfigError for each top-level key that the command does not read and that no interpolation refers to.

    The settings inside groups are compared with their readers elsewhere.
    """
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]  # a dict
    top = set(top_keys(command))
    missing = [
        key for key in top if key not in plain and key not in ("logger", "auxiliary", "hydra", "augment", "post")
    ]
    raise_mistakes(f"{key} is missing, but finetune {command} needs it." for key in sorted(missing))
    known = [key for key, _ in walk(plain) if key.split(".")[0] in top]
    raise_mistakes(
        [
            f"nothing reads {key}{'' if isinstance(value, dict) else f'={value}'}. {meant_setting(key, known)}"
            for key, value in plain.items()
            if key not in top and not re.search(rf"\$\{{{re.escape(str(key))}\b", str(plain))
        ]
    )


def top_keys(command: str) -> Iterator[str]:
    """Yield the keys at the top of a command's config."""
    content: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / f"{command}.yaml"))
    for entry in content.pop("defaults", []):
        if isinstance(entry, dict):
            yield from (group for group in entry if group not in ELSEWHERE)
        elif entry != "_self_":
            yield from top_keys(entry)
    yield from content


def meant_setting(key: str, known: Collection[str]) -> str:
    """Return a hint with the setting that an unknown key probably meant, out of the known dotted keys.

    >>> meant_setting("epochs", ["trainer.max_epochs", "seed"])
    'Did you mean trainer.max_epochs?'
    """
    meant = [name for name, others in MEANT.items() if key.lower() in others and name in known]
    if meant:
        return f"Did you mean {' or '.join(meant)}?"
    hint = suggest(key, known)
    return hint if hint.startswith("Did you mean") else suggest(key, [name for name in known if "." not in name])


def may_be_added(key: str) -> bool:
    """Return whether something may read a key that the config does not have, such as an argument of Lightning."""
    return (key.split(".")[0] in OPEN and "." in key) or ".options." in key
