"""Names of files without their suffix, which may have two parts: `a.nii.gz`."""

from pathlib import Path
from unicodedata import normalize

DOUBLE = (".nii.gz",)


def stem_of(path: Path) -> str:
    """Return the name of a file without its suffix, in which an accent is a part of its letter.

    File systems and archives of macOS keep accents as characters of their own, so that equal names differ.

    Digits are no suffix: DICOM files may be called `1.2.840.5`.

    >>> stem_of(Path("scans/a.1.png")), stem_of(Path("scans/a.1.nii.gz")), stem_of(Path("scans/a.1"))
    ('a.1', 'a.1', 'a.1')
    """
    suffix = _double(path) or path.suffix
    return normalize("NFC", path.name if suffix[1:].isdigit() else path.name.removesuffix(suffix))


def without_suffix(path: Path) -> Path:
    """Return a path without the suffix of its name."""
    return path.with_name(stem_of(path))


def _double(path: Path) -> str:
    length = next((len(each) for each in DOUBLE if path.name.lower().endswith(each) and path.name != each), 0)
    return path.name[len(path.name) - length :]
