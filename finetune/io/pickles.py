"""Pickles, gone through before torch reads them: what they would call, and how much that would come to.

torch's safe unpickler calls few functions, but each with anything: a set of a tensor that is one number a billion times
over, an encoding of an encoding of an encoding. Here every step is made with stand-ins for the values.
"""

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from typing import IO, Any

LONGEST = 2**23  # bytes; honest ones have 100 to 200 for each tensor
TENSORS = {f"torch._utils _rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")}
DICTS = {"collections OrderedDict": "ordered", "collections Counter": "dict"}
ENCODE = "_codecs encode"  # how protocol 2 writes bytes
CALLED = {*TENSORS, *DICTS, ENCODE, "torch Size", "torch device", "torch.serialization _get_layout"}
CALLED |= {f"{home} {name}" for home in ("__builtin__", "builtins") for name in ("set", "complex")}
MADE = {"argparse Namespace"}  # in which timm's train.py keeps its options; torch reads it only where it is told to
KNOWN = CALLED | MADE
# types of numbers and kinds of storage, which nobody calls
NAMED = re.compile(r"torch (bool|[a-z]*(int|float|complex|bits)\d\w*)|torch(\.storage|\.cuda)? \w+Storage")
HUGE = 2**60


@dataclass(slots=True)
class Value:
    """Stands for a value.

    Attributes:
        kind: `text`, `tuple`, `list`, `dict`, `ordered` (a dict), `object`, `tensor`, `name` (in a module), or `other`.
        size: values that are met on the way through all of it, those that are in it twice twice.
        text: of a text or name.
        parts: of a tuple.
        holds_tensors: whether one is directly in a list or tuple.
    """

    kind: str
    size: int = 1
    text: str = ""
    parts: tuple["Value", ...] = ()
    holds_tensors: bool = False

    def take(self, values: list["Value"]) -> None:
        """Put further values in."""
        self.size = min(self.size + sum(value.size for value in values), HUGE)
        self.holds_tensors = self.holds_tensors or any(value.kind == "tensor" for value in values)


OTHER = Value("other")


def check_pickle(file: IO[bytes] | mmap) -> None:
    """Go through a pickle up to its end.

    Raises:
        ValueError: it is damaged, or does what `torch.save` never writes.
    """
    walk, start = _Walk(), file.tell()
    try:
        for code, argument, place in pickletools.genops(file):  # type: ignore[arg-type]  # mmap has what it asks for
            walk.written = (place or 0) - start
            if code.name not in STEPS or walk.written > LONGEST:
                raise ValueError(
                    f"it has a step {code.name} behind {walk.written:,} bytes, which torch.save never has."
                )
            STEPS[code.name](walk, argument)
    except (IndexError, KeyError) as error:
        raise ValueError("it is damaged: it uses what it has not made.") from error


class _Walk:
    """What torch's unpickler would have in its hands."""

    def __init__(self) -> None:
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}
        self.written = 0  # bytes of the pickle so far
        self.spent = 0  # values that calls and keys have gone through

    def pop(self, count: int | None) -> list[Value]:
        """The last values, or those behind the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise IndexError
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def storage(self) -> None:
        self.pop(1)  # what its name is, and where in the file
        self.push(OTHER)

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def bundle(self, count: int | None) -> None:
        parts = self.pop(count)
        made = Value("tuple", parts=tuple(parts))
        made.take(parts)
        self.push(made)

    def grow(self, count: int | None, step: int) -> None:
        values = self.pop(count)
        if self.stack[-1].kind not in ("list", "dict", "ordered"):
            raise ValueError(f"it puts something into a {self.stack[-1].kind}.")
        if step == 2:
            self.spend(sum(key.size for key in values[::2]))  # to find a key's place, all of it is gone through
        self.stack[-1].take(values)

    def name(self, text: str) -> None:
        if text not in KNOWN and not NAMED.fullmatch(text):
            raise ValueError(
                f"to read it, '{text.replace(' ', '.', 1)}' would have to be called or made, which only the file asks "
                f"for."
            )
        self.push(Value("name", text=text))

    def call(self) -> None:
        function, given = self.pop(2)
        if function.text not in CALLED or function.kind != "name" or given.kind != "tuple":
            raise ValueError(f"it calls a {function.kind} with a {given.kind}.")
        if function.text in TENSORS:
            self.spend(given.size)
            return self.push(Value("tensor"))
        if given.holds_tensors or any(part.holds_tensors for part in given.parts):
            raise ValueError(f"it makes a {function.text.split()[1]} of a tensor.")
        if function.text == ENCODE:
            if [part.kind for part in given.parts] != ["text", "text"] or given.parts[1].text != "latin1":
                raise ValueError("it encodes something otherwise than bytes are written.")
            self.spend(len(given.parts[0].text))
        self.spend(given.size)
        self.push(Value(DICTS.get(function.text, "other"), given.size))

    def make(self) -> None:
        function, given = self.pop(2)
        if function.text not in MADE or function.kind != "name" or given.kind != "tuple" or given.parts:
            raise ValueError(f"it makes an object of a {function.kind} with a {given.kind}.")
        self.push(Value("object"))

    def build(self) -> None:
        state, owner = self.pop(1)[0], self.stack[-1]
        if owner.kind not in ("ordered", "object") or state.kind != "dict":
            raise ValueError(f"it gives a {owner.kind} attributes by a {state.kind}.")
        self.spend(state.size)

    def spend(self, values: int) -> None:
        """Count values that are gone through: what is written once is gone through about once."""
        self.spent += values
        if self.spent > 1000 + 4 * self.written:
            raise ValueError(f"it would become larger than what is written in it: {self.written:,} bytes so far.")


STEPS: dict[str, Callable[[_Walk, Any], None]] = {  # all that torch's unpickler knows, but for what nobody writes
    "PROTO": lambda walk, _: None,
    "STOP": lambda walk, _: None,
    "MARK": lambda walk, _: walk.marks.append(len(walk.stack)),
    "BINPERSID": lambda walk, _: walk.storage(),
    "EMPTY_LIST": lambda walk, _: walk.push(Value("list")),
    "EMPTY_DICT": lambda walk, _: walk.push(Value("dict")),
    "EMPTY_TUPLE": lambda walk, _: walk.bundle(0),
    "TUPLE1": lambda walk, _: walk.bundle(1),
    "TUPLE2": lambda walk, _: walk.bundle(2),
    "TUPLE3": lambda walk, _: walk.bundle(3),
    "TUPLE": lambda walk, _: walk.bundle(None),
    "APPEND": lambda walk, _: walk.grow(1, 1),
    "APPENDS": lambda walk, _: walk.grow(None, 1),
    "SETITEM": lambda walk, _: walk.grow(2, 2),
    "SETITEMS": lambda walk, _: walk.grow(None, 2),
    "GLOBAL": lambda walk, text: walk.name(text),
    "REDUCE": lambda walk, _: walk.call(),
    "NEWOBJ": lambda walk, _: walk.make(),
    "BUILD": lambda walk, _: walk.build(),
}
for _name in ("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"):
    STEPS[_name] = lambda walk, _: walk.push(OTHER)
for _name in ("BINUNICODE", "SHORT_BINSTRING"):
    STEPS[_name] = lambda walk, text: walk.push(Value("text", text=text))
for _name in ("BINPUT", "LONG_BINPUT"):
    STEPS[_name] = lambda walk, place: walk.put(place)
for _name in ("BINGET", "LONG_BINGET"):
    STEPS[_name] = lambda walk, place: walk.push(walk.memo[place])
