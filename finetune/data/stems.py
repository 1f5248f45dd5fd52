"""Names of files without their suffix, which may have two parts: `a.nii.gz`."""

from pathlib import Path
from unicodedata import normalize

DOUBLE = (".nii.gz",)


def stem_of(path: Path) -> str:
    """Return the name of a file without its suffix, in which an accent is a part of its letter.

    File systems and archives of macOS keep accents as characters of their own, so that equal names differ.

    >>> stem_of(Path("scans/a.1.png")), stem_of(Path("scans/a.1.nii.gz"))
    ('a.1', 'a.1')
    """
    return normalize("NFC", path.name[: -len(suffix)] if (suffix := _double(path)) else path.stem)


def without_suffix(path: Path) -> Path:
    """Return a path without the suffix of its name."""
    return path.with_name(stem_of(path))


def _double(path: Path) -> str:
    return next((suffix for suffix in DOUBLE if path.name.lower().endswith(suffix) and path.name != suffix), "")
