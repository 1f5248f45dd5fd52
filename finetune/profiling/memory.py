"""Main memory of this process and of the system; None on systems other than Linux."""

import re
from pathlib import Path

PROCESS, SYSTEM, GROUPS = Path("/proc/self"), Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def resident() -> int | None:
    """Return the resident memory of the process, in bytes."""
    return _bytes(PROCESS / "status", "VmRSS")


def peak() -> int | None:
    """Return the peak resident memory of the process since its start or the last `reset_peak`, in bytes."""
    return _bytes(PROCESS / "status", "VmHWM")


def reset_peak() -> bool:
    """Reset the peak to the current resident memory, and return whether the system allows it."""
    try:
        (PROCESS / "clear_refs").write_text("5")  # https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
    except OSError:
        return False
    return True


def available() -> int | None:
    """Return the memory that can still be allocated without swapping, in bytes: of the system, or of its container."""
    free = _bytes(SYSTEM, "MemAvailable")
    return None if free is None else min(free, *_free_in_groups(), free)


def _free_in_groups() -> list[int]:
    """Return what is free in each control group of the process that has a limit, such as that of a container."""
    # https://docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/memory.html
    files = ("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    found = []
    for folder in _groups():
        for limit, used, prefix in files:
            try:
                room = int((folder / limit).read_text()) - int((folder / used).read_text())
                cached = re.search(rf"^{prefix}inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
            except (OSError, ValueError):  # another version, or no limit, which is `max`
                continue
            found.append(max(0, room + int(cached[1] if cached else 0)))
    return found


def _groups() -> list[Path]:
    """Return the folders of the control groups of the process, and of those above them."""
    try:
        lines = [line.split(":", 2) for line in (PROCESS / "cgroup").read_text().splitlines()]
    except OSError:
        return []
    own = [GROUPS / kind / path.lstrip("/") for _, kind, path in lines if kind in ("", "memory")]
    folders = [each for path in own for each in (path, *path.parents) if each.is_relative_to(GROUPS)]
    return list(dict.fromkeys([*folders, GROUPS, GROUPS / "memory"]))  # in a container, paths may be those outside


def _bytes(path: Path, field: str) -> int | None:
    try:
        match = re.search(rf"^{field}:\s*(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None
