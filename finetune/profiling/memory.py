"""Main memory of this process and of the system; None on systems other than Linux."""

import re
from pathlib import Path

PROCESS, SYSTEM = Path("/proc/self"), Path("/proc/meminfo")


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
    """Return the memory that can still be allocated without swapping, in bytes."""
    return _bytes(SYSTEM, "MemAvailable")


def _bytes(path: Path, field: str) -> int | None:
    try:
        match = re.search(rf"^{field}:\s*(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None
