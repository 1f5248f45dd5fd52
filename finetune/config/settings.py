"""Compare settings with the constructor that takes them: names, and types from its annotations."""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from finetune.io.messages import suggest

# settings that a run searches by training steps -> the value that asks for it, and a placeholder until it is found
SEARCHED: Mapping[str, tuple[str, int | float]] = {"data.batch_size": ("largest", 2), "optimizer.lr": ("auto", 1e-3)}
# settings of a recipe, which its rules decide when they are `auto` -> placeholder until the data is known
RECIPE: Mapping[str, Any] = {
    "backbone.reduce": 1,
    "head.decoder_channels": [256, 128, 64, 32, 16],
    "head.anchor_sizes": [16, 32, 64, 128, 256],
    "head.anchor_ratios": [0.5, 1.0, 2.0],
    "head.max_detections": 100,
    "head.proposals": 1000,
    "augment.crop": 320,
    "augment.scale": [0.5, 2.0],
    "augment.vertical_flip": 0.0,
    "augment.class_crop": 0.0,
    "loss.class_weights": "none",
    "data.batch_size": 4,
    "trainer.accumulate_grad_batches": 1,
    "trainer.max_epochs": 20,
    "trainer.check_val_every_n_epoch": 1,
}
# all settings of ours that may be `auto`; Lightning has its own
AUTO = (*SEARCHED, *RECIPE, "data.num_workers", "data.value_range", "backbone.in_channels", "trainer.precision")

NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}


@dataclass(frozen=True)
class Settings:
    """The settings of a config group, and the constructor that takes them.

    Attributes:
        group: dotted name of the group.
        values: name -> plain value.
        constructor: function or class whose arguments the settings are.
        skip: arguments of the constructor that are no settings.
    """

    group: str
    values: Mapping[str, Any]
    constructor: Callable[..., Any]
    skip: tuple[str, ...] = ()

    def unknown(self) -> dict[str, str]:
        """Return dotted key -> message for each setting that the constructor does not have."""
        if not isinstance(self.values, Mapping):
            text = f"{self.group}={self.values}: expected a group of settings, such as {self.group}.NAME=VALUE."
            return {self.group: text}
        names = [name for name in inspect.signature(self.constructor).parameters if name not in self.skip]
        return {
            f"{self.group}.{name}": f"there is no setting {self.group}.{name}. {self._help(name, names)}"
            for name in self.values
            if name not in names
        }

    def _help(self, name: str, names: Sequence[str]) -> str:
        pass_on = f" To pass it on as it is: +{self.group}.options.{name}=..." if "options" in names else ""
        return suggest(name, names) + pass_on

    def type_errors(self) -> list[str]:
        """Return a line for each setting that has another type than the constructor's annotation."""
        if not isinstance(self.values, Mapping):
            return []  # `unknown` says it
        is_class = inspect.isclass(self.constructor)
        hints = get_type_hints(self.constructor.__init__ if is_class else self.constructor)
        errors = []
        for name, value in self.values.items():
            key, hint = f"{self.group}.{name}", hints.get(name, Any)
            if not (fits(value, hint) or (value == "auto" and key in AUTO)):
                expected = f"{describe(hint)}{' or auto' if key in AUTO else ''}"
                errors.append(f"{key}={value}: expected {expected}.{as_list(key, value, hint)}")
        return errors


def as_list(key: str, value: Any, hint: Any) -> str:
    """Return a hint with a list that says what a mapping says, where one is expected.

    >>> as_list("data.mask_values", {0: 1, 255: 0}, Sequence[int] | None)
    ' As a list, by class: data.mask_values=[255,0]'
    """
    by_class = key.rpartition(".")[2] in ("mask_values", "classes", "class_weights", "thresholds")
    if not (by_class and isinstance(value, dict)):
        return ""
    indices = list(range(len(value)))
    if sorted(map(str, value.values())) == sorted(map(str, indices)):  # thing -> class index
        listed = sorted(value, key=lambda thing: int(value[thing]))
    elif sorted(map(str, value)) == sorted(map(str, indices)):  # class index -> thing
        listed = [value[index] for index in sorted(value, key=int)]
    else:
        return " Give a list with one entry per class, in their order."
    as_list = f" As a list, by class: {key}=[{','.join(map(str, listed))}]"
    return as_list if fits(listed, hint) else " Give a list with one entry per class, in their order."


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain value is of an annotated type; a whole number is a number, too.

    Types that no YAML value can have, such as tensors, take any value: their reader checks it.

    >>> fits(1, float), fits(1.0, int), fits(True, int), fits(None, int | None), fits([1, "a"], Sequence[int])
    (True, False, False, True, False)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        plain = [argument for argument in arguments if _is_plain(argument)]
        is_open = value is None and len(plain) < len(arguments)  # a reader of other types says better what is missing
        return not plain or is_open or any(fits(value, argument) for argument in plain)
    if origin is Literal:
        return value in arguments
    if hint in NAMES:
        return type(value) in ((int, float) if hint is float else (hint,))
    kind = origin or hint
    if kind in (list, tuple, Sequence):
        return isinstance(value, list) and _elements_fit(value, kind, arguments)
    if kind in (dict, Mapping):
        return isinstance(value, dict)
    return True


def _is_plain(hint: Any) -> bool:
    """Return whether a YAML value can have an annotated type."""
    return hint in NAMES or (get_origin(hint) or hint) in (list, tuple, Sequence, dict, Mapping, Literal, Any)


def _elements_fit(values: list[Any], kind: Any, arguments: tuple[Any, ...]) -> bool:
    if not arguments:
        return True
    if kind is tuple and arguments[-1] is not Ellipsis:
        return len(values) == len(arguments) and all(map(fits, values, arguments))
    return all(fits(value, arguments[0]) for value in values)


def describe(hint: Any) -> str:
    """Return an annotated type in words.

    >>> describe(int | None), describe(Sequence[float]), describe(Sequence[Mapping[str, Any]])
    ('a whole number or null', 'a list of numbers', 'a list of groups of settings')
    >>> describe(Literal["stages", "blocks"]), describe(tuple[int, int])
    ('stages or blocks', 'a list of 2 whole numbers')
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(argument) for argument in arguments))
    if origin is Literal:
        return " or ".join(map(str, arguments))
    kind = origin or hint
    if kind in (list, tuple, Sequence):
        groups = " of groups of settings"
        plural = {int: " of whole numbers", float: " of numbers", str: " of names", dict: groups, Mapping: groups}
        count = f"{len(arguments)} " if kind is tuple and arguments[-1] is not Ellipsis else ""
        elements = plural.get(get_origin(arguments[0]) or arguments[0], "") if arguments else ""
        return f"a list{elements.replace(' of ', f' of {count}', 1)}"
    if kind in (dict, Mapping):
        return "a group of settings"
    return NAMES.get(hint, getattr(hint, "__name__", str(hint)))
