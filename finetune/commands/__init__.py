"""The commands: one table, and one file for each.

The table drives the command line, its help and completion, and `finetune.<command>` in Python. A new command is one
entry here, one file next to this one and one YAML file in `conf/`. Nothing heavy is imported until a command runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Command:
    """An entry of the table.

    Attributes:
        target: `module:function`; the function takes overrides, or one composed config, and returns a result. A result
            with an attribute `score` gives a sweep its objective; with `exit_code`, the process ends with that.
        examples: lines of the help, as (what to type after `finetune <command>`, what it does).
        positional: keys of the values that may be given without a key, in this order.
        sweep_paths: settings that name a path in the folder of each sweep job: key -> file name, "" for the folder.
    """

    target: str
    examples: tuple[tuple[str, str], ...]
    positional: tuple[str, ...] = ()
    sweep_paths: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> Any:
        """Import and return the function."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)


COMMANDS: dict[str, Command] = {
    "train": Command(
        "finetune.commands.train:train",
        (
            ("data.root=FOLDER", "your images and masks, as you have them"),
            ("experiment=quickstart", "try it without any data"),
            ("resume=outputs/...", "resume a run exactly where it stopped"),
            ("-m backbone=resnet18,convnext_tiny", "a sweep"),
        ),
        sweep_paths={"output": ""},
    ),
    "audit": Command(
        "finetune.commands.audit:audit",
        (("data.root=FOLDER", "what is wrong with images and masks, as a page to look at"),),
        sweep_paths={"output": ""},
    ),
    "plan": Command(
        "finetune.commands.plan:plan",
        (("tuning=gradual backbone=resnet50", "what would train when, at which learning rate and cost"),),
        sweep_paths={"plan.figure": "plan.png"},
    ),
    "evaluate": Command(
        "finetune.commands.evaluate:evaluate",
        (("run=outputs/...", "score a run, on its data or on data.root=..."),),
    ),
    "calibrate": Command(
        "finetune.commands.calibrate:calibrate",
        (("run=outputs/...", "calibrate a run: of the pixels predicted with 80 %, about 80 % should be right"),),
    ),
    "report": Command(
        "finetune.commands.report:report",
        (("run=outputs/...", "the page of a run, with its scores, images and settings"),),
    ),
    "predict": Command(
        "finetune.commands.predict:predict",
        (("run=outputs/... input=PHOTOS output=masks", "masks for new images"),),
    ),
    "suggest": Command(
        "finetune.commands.suggest:suggest",
        (("run=outputs/... input=POOL output=next", "the images to label next"),),
    ),
    "export": Command(
        "finetune.commands.export:export",
        (("run=outputs/... format=onnx", "the model as one file that runs without torch, checked"),),
    ),
    "benchmark": Command(
        "finetune.commands.benchmark:benchmark",
        (("run=outputs/...", "time and memory of predictions, of one run or of several"),),
    ),
    "explain": Command(
        "finetune.commands.explain:explain",
        (
            ("run=outputs/... input=PHOTOS class=car", "where in the images a prediction comes from"),
            ("run=outputs/... method=cka", "what fine-tuning changed in each layer of the backbone"),
        ),
    ),
    "list": Command(
        "finetune.commands.list_models:list_models",
        (
            ("backbones for=laptop", "a few backbones to choose from, with reasons; or for=cpu, for=gpu"),
            ("backbones 'convnext*' parameters=30", "choose a backbone; or list heads"),
        ),
        positional=("what", "name"),
    ),
}
