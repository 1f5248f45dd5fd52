"""Damage to annotation files, and images for them."""

import json
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest

from finetune.data import DataError, Source

JUNK = (
    "null",
    "-1",
    "0",
    "NaN",
    "1e999",
    "1e300",
    '"x"',
    "[]",
    "{}",
    "true",
    "99999999999",
    "\\",
    '"',
    "<",
    "é",
    "[[1]]",
)


def damaged(content: bytes, seed: int) -> bytes:
    """Cut a file off, drop a part of it, repeat one, or put junk at one to three places."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(content) + 1)
        end = min(start + rng.choice((0, 1, 2, 5, 20)), len(content))
        junk = rng.choice(JUNK).encode()
        content = rng.choice(
            (
                content[:start] if rng.random() < 0.2 else content[:start] + junk + content[end:],
                content[:start] + content[end:],
                content[:start] + content[start:end] * 2 + content[end:],
                content[:start] + junk + content[end:],
                bytes(byte ^ (1 << rng.randrange(8)) if index == start else byte for index, byte in enumerate(content)),
            )
        )
        if found := [match for match in (content.find(key, start) for key in (b":", b",")) if match > 0]:
            place = min(found) + 1  # the start of a value
            stop = min(
                [stop for stop in (content.find(key, place) for key in (b",", b"}", b"]")) if stop > 0] or [place]
            )
            content = content[:place] + junk + content[stop:]
    return content


VALUES = (
    None,
    -1,
    0,
    1.5,
    1e300,
    10**400,
    2**40,
    True,
    "",
    "x",
    "é" * 300,
    "\0",
    [],
    [1],
    [[]],
    {},
    {"id": 1},
    [[1, 2]] * 3,
)


def damaged_json(content: bytes, seed: int) -> bytes:
    """Replace, drop or repeat one to three values anywhere in a JSON file, which stays JSON."""
    rng = random.Random(seed)
    tree = [json.loads(content)]
    for _ in range(rng.randint(1, 3)):
        holder, key = tree, 0
        while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.85:
            holder = holder[key]
            key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        action = rng.random()
        if action < 0.7 or holder is tree:
            holder[key] = deepcopy(rng.choice(VALUES))
        elif action < 0.85:
            del holder[key]
        elif isinstance(holder, list):
            holder.append(deepcopy(holder[key]))
    return json.dumps(tree[0]).encode()


@pytest.fixture
def survives_damage() -> Callable[..., int]:
    """Damage a file in many ways, and read all of the data each time; return how often it was refused."""

    def check(build: Callable[[], Source], path: Path, count: int = 300, named: str = "") -> int:
        original, messages = path.read_bytes(), list[str]()
        for seed in range(count):
            is_json = path.suffix == ".json" and seed % 3
            path.write_bytes(damaged_json(original, seed) if is_json else damaged(original, seed))
            try:
                source = build()
                for record in source.records():
                    record.target.read()
                assert len(source.class_names) >= 1
            except DataError as error:
                messages.append(str(error))
        path.write_bytes(original)
        assert [text for text in messages if (named or path.name) not in text] == []
        return len(messages)

    return check
