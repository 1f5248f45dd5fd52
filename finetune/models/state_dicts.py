"""Find the state dict of a model in a checkpoint of any layout: under a key, under a prefix, or both."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from finetune.io.messages import shortlist

State = dict[str, Tensor]
# keys of a checkpoint that hold weights, in order of preference; averaged weights first, as in timm
KEYS = ("state_dict_ema", "model_ema", "ema", "teacher", "state_dict", "model", "model_state_dict", "model_state")
WRAPPERS = {"module", "_orig_mod", "model", "backbone"}  # prefixes of DDP, torch.compile, and a task
DEEPEST = 3  # nested keys to look below


@dataclass(frozen=True)
class FoundState:
    """A state dict in a checkpoint.

    Attributes:
        state: tensors by the model's names.
        place: where they were found, for messages; empty if that is the whole content.
    """

    state: State
    place: str


def find_state(content: Any, expected: Collection[str]) -> FoundState | None:
    """Return the tensors that have most of a model's names, or None if nowhere half of the names are found.

    Names may follow a prefix that wrappers and tasks add, such as `module.` or `encoder.`; tensors without that prefix
    are left out, such as a decoder. Among equally good places, averaged weights are preferred.

    Args:
        content: of the file.
        expected: names of the model's tensors.

    >>> from torch import zeros
    >>> found = find_state({"teacher": {"backbone.a.w": zeros(1), "head.b": zeros(1)}, "epoch": 3}, ["a.w"])
    >>> list(found.state), found.place
    (['a.w'], "'teacher', the names after 'backbone.', without 1 other name: head.b")
    """
    best, rank = None, (len(expected) // 2, 0)
    for keys, tensors in _mappings(content):
        counts = Counter(prefix for name in tensors for prefix in _prefixes(name, expected))
        for prefix, count in counts.items():
            if (count, _preference(keys)) > rank:
                best, rank = (keys, prefix, tensors), (count, _preference(keys))
    if best is None:
        return None
    keys, prefix, tensors = best
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    others = [name for name in tensors if not name.startswith(prefix)]
    return FoundState(state, _describe(keys, prefix, others))


def largest_state(content: Any) -> FoundState | None:
    """Return the mapping with the most tensors, or None without tensors: for names that timm translates.

    The prefixes of wrappers that all names share are removed.

    >>> from torch import zeros
    >>> found = largest_state({"net": {"module.model.a": zeros(1), "module.model.b": zeros(1)}, "epoch": 3})
    >>> list(found.state), found.place
    (['a', 'b'], "'net', the names after 'module.model.'")
    """
    keys, tensors = max(_mappings(content), key=lambda found: (len(found[1]), _preference(found[0])), default=((), {}))
    if not tensors:
        return None
    prefix, state = "", tensors
    while len(first := {name.partition(".")[0] for name in state if "." in name}) == 1 and first <= WRAPPERS:
        (wrapper,) = first
        prefix += f"{wrapper}."
        state = {name.removeprefix(f"{wrapper}."): value for name, value in state.items()}
    return FoundState(state, _describe(keys, prefix, ()))


def _preference(keys: Sequence[str]) -> int:
    return len(KEYS) - KEYS.index(keys[-1]) if keys and keys[-1] in KEYS else 0


def _mappings(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], State]]:
    """Yield the tensors of every mapping in the content, with the keys that lead to it."""
    if not isinstance(content, Mapping) or len(keys) > DEEPEST:
        return
    yield keys, {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for name, value in content.items():
        yield from _mappings(value, (*keys, str(name)))


def _prefixes(name: str, expected: Collection[str]) -> Iterator[str]:
    """Yield every prefix of a name after which one of the expected names follows."""
    position = 0
    while True:
        if name[position:] in expected:
            yield name[:position]
        position = name.find(".", position) + 1
        if not position:
            return


def _describe(keys: tuple[str, ...], prefix: str, others: Collection[str]) -> str:
    parts = [repr(".".join(keys))] if keys else []
    if prefix:
        parts.append(f"the names after '{prefix}'")
    if others:
        parts.append(f"without {len(others)} other name{'s' * (len(others) > 1)}: {shortlist(others, 3)}")
    return ", ".join(parts)
