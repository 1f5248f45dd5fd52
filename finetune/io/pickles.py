"""Check of a pickle before torch reads it.

`torch.load(weights_only=True)` runs no code, but a few bytes may still take all memory or time: a set of a tensor that
repeats one number a billion times, or a dict key whose nested tuples stand for 2**60 values.
"""

import pickletools
import re
from dataclasses import dataclass
from math import inf
from mmap import mmap
from typing import IO, Any

MAX_BYTES = 2**23  # of a pickle; torch.save writes 100 to 200 for each tensor
REBUILDS = {f"torch._utils _rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")}
CALLABLE = REBUILDS | {"collections OrderedDict", "collections Counter", "torch Size", "torch device"}
CALLABLE |= {f"{module} {name}" for module in ("__builtin__", "builtins") for name in ("set", "complex")}
CALLABLE |= {"torch.serialization _get_layout", "argparse Namespace"}  # timm's train.py stores a Namespace
CONSTANT = re.compile(r"torch (bool|[a-z]*(int|float|complex|bits)\d\w*)|torch(\.storage|\.cuda)? \w+Storage")
GROW = {"APPEND": 1, "BUILD": 1, "SETITEM": 2, "APPENDS": 0, "SETITEMS": 0}  # values added to the one below; 0: a slice


@dataclass(slots=True)
class _Value:
    """A value on the stack of the unpickler.

    Attributes:
        size: number of values in it; a value that is in it twice counts twice.
        name: dotted name of a global.
        tensor_depth: levels down to its nearest tensor.
    """

    size: int = 1
    name: str = ""
    tensor_depth: float = inf

    def add(self, values: list["_Value"]) -> None:
        self.size = min(self.size + sum(value.size for value in values), 2**60)
        self.tensor_depth = min([self.tensor_depth, *(1 + value.tensor_depth for value in values)])


def check_pickle(file: IO[bytes] | mmap) -> None:
    """Raise ValueError if reading a pickle would use unknown names, or go through far more values than it has bytes.

    Only sizes are followed. torch itself refuses unknown opcodes, and calls of anything but its own functions.
    """
    stack: list[_Value] = []
    marks: list[int] = []
    memo: dict[Any, _Value] = {}
    start, visited, previous = file.tell(), 0, ""
    for opcode, argument, position in pickletools.genops(file):  # type: ignore[arg-type]  # an mmap reads like a file
        length = (position or 0) - start
        if opcode.name.endswith("PUT"):
            memo[argument] = stack[-1]
            continue
        if opcode.name == "MARK":
            marks.append(len(stack))
        elif opcode.name.endswith("GET"):
            stack.append(memo[argument])
        elif opcode.name == "GLOBAL":
            stack.append(_Value(name=_known(str(argument))))
        else:
            visited += _step(opcode, stack, marks, previous)
        if length > MAX_BYTES or visited > 1000 + 4 * length:
            raise ValueError(f"reading it would take far more memory or time than its {length:,} bytes so far.")
        previous = opcode.name


def _known(name: str) -> str:
    if name not in CALLABLE and not CONSTANT.fullmatch(name):
        raise ValueError(f"reading it would call '{name.replace(' ', '.', 1)}', which plain data never does.")
    return name


def _step(opcode: pickletools.OpcodeInfo, stack: list[_Value], marks: list[int], previous: str) -> int:
    """Replace the operands of an opcode on the stack by its result, and return how many values it goes through."""
    has_mark = pickletools.markobject in opcode.stack_before
    first = marks.pop() if has_mark else len(stack) - GROW.get(opcode.name, len(opcode.stack_before))
    values = stack[first:]
    del stack[first:]
    visited = _visited(opcode.name, values, previous)
    if opcode.name in GROW:
        stack[-1].add(values)
    elif opcode.name == "REDUCE" and values[0].name in REBUILDS:
        stack.append(_Value(tensor_depth=0))
    elif opcode.stack_after:
        stack.append(_Value())
        stack[-1].add(values)
    return visited


def _visited(code: str, values: list[_Value], previous: str) -> int:
    """Return how many values are hashed as dict keys, or copied from arguments and attributes."""
    if code in ("SETITEM", "SETITEMS"):
        return sum(key.size for key in values[::2])
    if code not in ("REDUCE", "NEWOBJ", "BUILD", "BINPERSID"):
        return 0
    function, arguments = values[0].name, values[-1]
    if code in ("REDUCE", "NEWOBJ") and (function not in CALLABLE or "TUPLE" not in previous):
        raise ValueError("reading it would call something that torch.save never writes.")
    if function not in REBUILDS and arguments.tensor_depth <= 2:  # a tensor may repeat a number, and would be iterated
        raise ValueError("reading it would unpack a tensor.")
    return arguments.size
