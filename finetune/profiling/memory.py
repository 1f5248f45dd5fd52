"""The main memory of this process; None wherever the system does not tell, as only Linux does."""

import re
from pathlib import Path

PROCESS, SYSTEM = Path("/proc/self"), Path("/proc/meminfo")


def resident() -> int | None:
    """Bytes that the process holds now."""
    return _bytes(PROCESS / "status", "VmRSS")


def peak() -> int | None:
    """Most bytes that it has held, since `reset_peak` if that could be done."""
    return _bytes(PROCESS / "status", "VmHWM")


def reset_peak() -> bool:
    """Forget the most that has been held so far; whether the system lets us."""
    try:
        (PROCESS / "clear_refs").write_text("5")  # https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
    except OSError:
        return False
    return True


def available() -> int | None:
    """Bytes that could be had on top, without pushing other processes out."""
    return _bytes(SYSTEM, "MemAvailable")


def _bytes(path: Path, field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s*(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
