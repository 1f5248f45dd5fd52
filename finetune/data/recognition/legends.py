"""Find the file that names the classes of masks, such as class_dict.csv, labelmap.txt, classes.txt or meta.json."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.data.masks.values import COLOR, Value, gray_level

FILE_NAME = re.compile(r"class|label|legend|colou?r|palette|meta|object", re.IGNORECASE)
VOID = re.compile(r"void|ignored?|unlabel+ed|unknown|unclassified|no ?data", re.IGNORECASE)
NUMBERED = re.compile(r"(\d+(?:[\s,]+\d+[\s,]+\d+)?)[\s,:;]+(\D.*)")  # a number or three, and a name
MAX_BYTES = 1 << 20
NAME_COLUMNS = ("name", "class", "class_name", "classname", "label", "category")
VALUE_COLUMNS = ("value", "index", "idx", "id", "class_id", "pixel_value", "number")
COLOR_COLUMNS = ("color", "colour", "hex", "rgb")
BAND_COLUMNS = (("r", "red"), ("g", "green"), ("b", "blue"))


@dataclass(frozen=True)
class Legend:
    """Names of classes, from a file.

    Attributes:
        path: the file.
        names: of the classes.
        values: number or color of each.
        ignored: values of the pixels to leave out.
    """

    path: Path
    names: tuple[str, ...]
    values: tuple[Value, ...]
    ignored: tuple[Value, ...] = ()

    @property
    def by_value(self) -> dict[Value, str]:
        """Return the name of each value."""
        return dict(zip(self.values, self.names, strict=True))

    def by_gray_level(self) -> "Legend":
        """Return the legend with the numbers that its gray colors have in gray masks."""
        values, ignored = (tuple(map(gray_level, each)) for each in (self.values, self.ignored))
        return replace(self, values=values, ignored=ignored)


def find_legends(folder: Path) -> list[Legend]:
    """Return what the files of a folder say about classes, by file name; files about other things are passed over."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    named = (path for path in files if FILE_NAME.search(path.stem) and path.stat().st_size <= MAX_BYTES)
    return [legend for path in named if (legend := read_legend(path))]


def read_legend(path: Path) -> Legend | None:
    """Return the classes that a file names; None if it is about something else."""
    reader = {".csv": _table, ".tsv": _table, ".txt": _text, ".json": _json}.get(path.suffix.lower())
    if reader is None:
        return None
    try:
        legend = reader(path, path.read_text(encoding="utf-8-sig"))
    except Exception:  # a file about something else makes the readers raise nearly anything
        return None
    is_usable = legend and all(legend.names) and len(set(legend.names)) == len(legend.names)
    return legend if is_usable else None


def _legend(path: Path, entries: Sequence[tuple[str, Value]], void: Sequence[Value] = ()) -> Legend | None:
    """Return the legend of names with values; what is named as void, or has such a value, is ignored."""
    kept = [(name, value) for name, value in entries if not VOID.fullmatch(name) and value not in void]
    ignored = tuple(dict.fromkeys([*void, *(value for name, value in entries if VOID.fullmatch(name))]))
    if len(kept) < 2 or len({value for _, value in entries}) < len(entries):
        return None
    return Legend(path, tuple(name for name, _ in kept), tuple(value for _, value in kept), ignored)


def _table(path: Path, text: str) -> Legend | None:
    first = text.partition("\n")[0]
    separator = next((sign for sign in ("\t", ";", ",") if sign in first), ",")
    rows = list(csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True))
    if len(rows) < 3:
        return None
    columns = {name.strip().lower(): index for index, name in enumerate(rows[0])}
    name = _column(columns, NAME_COLUMNS)
    value_of = _value_reader(columns)
    if name is None or value_of is None:
        return None
    return _legend(path, [(row[name].strip(), value_of(row)) for row in rows[1:] if row])


def _column(columns: Mapping[str, int], known: Sequence[str]) -> int | None:
    return next((columns[name] for name in known if name in columns), None)


def _value_reader(columns: Mapping[str, int]) -> Any:
    """Return a function from the cells of a row to its color or number; None if there is no such column."""
    bands = [_column(columns, names) for names in BAND_COLUMNS]
    if None not in bands:
        return lambda row: _color([int(row[band]) for band in bands if band is not None])
    if (colors := _column(columns, COLOR_COLUMNS)) is not None:
        return lambda row: _as_value(row[colors])
    if (values := _column(columns, VALUE_COLUMNS)) is not None:
        return lambda row: int(row[values])
    return None


def _text(path: Path, text: str) -> Legend | None:
    """Read the lines of CVAT's labelmap.txt, a table with tabs, or one name per line, perhaps after its value."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    colored = [re.fullmatch(r"(.+?):\s*(\d+,\s*\d+,\s*\d+)(:.*)?", line) for line in lines]
    if lines and all(colored):
        return _legend(path, [(match[1], _as_value(match[2])) for match in colored if match])
    if "\t" in text and (table := _table(path, text)):
        return table
    numbered = [NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        return _legend(path, [(match[2], _as_value(match[1])) for match in numbered if match])
    is_list = 2 <= len(lines) <= 256 and all(
        len(line) < 60 and not re.search(r"[/\\]|\.\w{3,4}$", line) for line in lines
    )
    return _legend(path, list(zip(lines, range(len(lines)), strict=True))) if is_list else None


def _json(path: Path, text: str) -> Legend | None:
    """Read a list of names, a mapping of names to values, or either under `classes`, with or without `ignore_index`."""
    content = json.loads(text)
    classes = next((content[key] for key in ("classes", "names", "labels") if key in content), content)
    void = content.get("ignore_index") if isinstance(content, dict) else None
    entries = list(_entries(classes))
    return _legend(path, entries, [void] if type(void) is int else []) or _legend(path, entries)


def _entries(classes: Any) -> Iterator[tuple[str, Value]]:
    if isinstance(classes, dict):
        yield from ((str(name), _as_value(value)) for name, value in classes.items())
    elif isinstance(classes, list) and all(isinstance(name, str) for name in classes):
        yield from zip(classes, range(len(classes)), strict=True)
        return
    for entry in classes if isinstance(classes, list) else ():
        keys = {key.lower(): key for key in entry}
        name, value = _known_key(keys, NAME_COLUMNS), _known_key(keys, (*COLOR_COLUMNS, *VALUE_COLUMNS))
        yield str(entry[keys[name]]), _as_value(entry[keys[value]])


def _known_key(keys: Iterable[str], known: Sequence[str]) -> str:
    """Return the first of the known keys that is there.

    Raises:
        KeyError: none is.
    """
    present = [key for key in known if key in keys]
    if not present:
        raise KeyError(known)
    return present[0]


def _as_value(value: Any) -> Value:
    """Return a number, a color as `#ff00ff`, or a color of three numbers.

    >>> _as_value("7"), _as_value([255, 0, 255]), _as_value("255, 0, 255"), _as_value("FF00FF")
    (7, '#ff00ff', '#ff00ff', '#ff00ff')

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, str):
        text = value.strip().strip("()[]")
        if COLOR.fullmatch(f"#{text.lstrip('#')}") and not text.isdigit():
            return f"#{text.lstrip('#').lower()}"
        value = [int(part) for part in re.split(r"[,\s]+", text)] if re.search(r"[,\s]", text) else int(text)
    if isinstance(value, list):
        return _color(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(value)
    return value


def _color(bands: Sequence[int]) -> str:
    if len(bands) < 3 or not all(0 <= band <= 255 for band in bands[:3]):
        raise ValueError(bands)
    return "#{:02x}{:02x}{:02x}".format(*bands[:3])
