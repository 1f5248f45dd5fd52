"""The folder with the YAML files, and the config groups and options in it."""

from pathlib import Path

BASE = "base"


def config_folder() -> Path:
    """Return the folder with the YAML files: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def groups() -> list[str]:
    """Return the names of all config groups."""
    return sorted(path.name for path in config_folder().iterdir() if path.is_dir() and path.name != "hydra")


def options(group: str) -> list[str]:
    """Return the names of a group's options, without the file that they build on."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml") if path.stem != BASE)
