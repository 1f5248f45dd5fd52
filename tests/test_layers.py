"""Keeps the layers of the house: imports point down only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import finetune

PACKAGE = Path(finetune.__file__).parent
FLOORS = {
    "__init__": 5,
    "__main__": 5,
    "cli": 5,
    "run": 4,
    "config": 4,
    "build": 4,
    "check": 4,
    "check_trainer": 4,
    "check_tuning": 4,
    "kinds": 4,
    "advice": 4,
    "options": 4,
    "pacing": 4,
    "trainers": 4,
    "datasets": 4,
    "planning": 4,
    "probe": 4,
    "finding": 4,
    "folder": 4,
    "agreement": 4,
    "start": 4,
    "resume": 4,
    "reconfigure": 4,
    "prediction": 4,
    "loggers": 4,
    "requeue": 4,
    "endings": 4,
    "trust": 4,
    "console": 4,
    "evaluation": 4,
    "listing": 4,
    "reports": 3,
    "tasks": 2,
    "callbacks": 2,
    "inference": 2,
    "checkpoint": 2,
    "adapters": 2,
    "storage": 2,
    "models": 1,
    "tuning": 1,
    "data": 1,
    "catalogue": 0,
    "files": 0,
    "archives": 0,
    "pickles": 0,
    "writing": 0,
    "losses": 0,
    "metrics": 0,
    "plots": 0,
}
CONFIG_LIBRARIES = {"hydra", "omegaconf"}
TRAINING_LIBRARIES = {"lightning", "pytorch_lightning", "lightning_fabric"}


def find_modules() -> dict[str, str]:
    """Dotted name, without `finetune.`, -> source; a package is called by its folder, the top one `__init__`."""
    paths = sorted(PACKAGE.rglob("*.py"))
    named = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}
    return {name if name == "__init__" else name.removesuffix(".__init__"): p.read_text() for name, p in named.items()}


def imported(module: str, source: str, modules: set[str]) -> Iterator[str]:
    """Dotted names of what a module imports, wherever in the file; our own without `finetune.`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (own_name(alias.name, modules) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node, modules)
            yield from (own_name(f"{base}.{alias.name}", modules) for alias in node.names)


def absolute(module: str, node: ast.ImportFrom, modules: set[str]) -> str:
    if not node.level:
        return node.module or ""
    is_package = module == "__init__" or any(name.startswith(f"{module}.") for name in modules)
    parts = ["finetune", *(module.split(".") if module != "__init__" else [])]
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def own_name(name: str, modules: set[str]) -> str:
    """`finetune.data.records.Record` -> `data.records`; other packages as they are."""
    if name.split(".")[0] != "finetune":
        return name
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in modules:
        parts.pop()
    return "own:" + (".".join(parts) or "__init__")


def violations(module: str, source: str, modules: set[str]) -> list[str]:
    """What a module imports although its floor forbids it."""
    room = module.split(".")[0]
    floor = FLOORS[room]
    found = []
    for name in imported(module, source, modules):
        top = name.split(".")[0]
        if name.startswith("own:"):
            target = name.removeprefix("own:")
            other = target.split(".")[0]
            if FLOORS[other] > floor:
                found.append(f"{module} (floor {floor}) imports {target} (floor {FLOORS[other]})")
            elif floor == 1 and FLOORS[other] == 1 and other != room:
                found.append(f"{module} imports {target}, another room of its floor")
            elif room == other == "callbacks" and module != "callbacks" and target != module:
                found.append(f"{module} imports {target}, another file of the callbacks")
        elif (top in CONFIG_LIBRARIES and floor < 4) or (
            top in TRAINING_LIBRARIES and (floor == 0 or (floor == 1 and module != "data.module"))
        ):
            found.append(f"{module} (floor {floor}) imports {top}")
    return found


def test_every_room_and_file_has_a_floor() -> None:
    rooms = {module.split(".")[0] for module in find_modules()}
    assert rooms == set(FLOORS)
    assert len(find_modules()) > 40


def test_imports_point_down_only() -> None:
    modules = find_modules()
    found = [text for name, source in modules.items() for text in violations(name, source, set(modules))]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("losses", "from finetune.metrics.confusion import iou\nfrom finetune.data import Record"),
        ("losses", "import lightning.pytorch as pl"),
        ("plots.panels", "from finetune import build"),
        ("plots.panels", "import finetune.models.backbone"),
        ("models.backbone", "from finetune.tuning.plan import Plan"),
        ("models.backbone", "from finetune import tuning"),
        ("tuning.freeze", "from finetune.models import Segmenter"),
        ("data.records", "import lightning"),
        ("data.module", "from finetune.tasks import SemanticTask"),
        ("models.heads", "def f():\n    from lightning.pytorch import Trainer"),
        ("tasks.base", "from omegaconf import DictConfig"),
        ("tasks.base", "from finetune.reports.evaluation import write_curves"),
        ("reports.evaluation", "import hydra.utils"),
        ("callbacks.preview", "from finetune.callbacks.iou import IoU"),
        ("callbacks.preview", "from finetune.callbacks import IoU"),
        ("callbacks.preview", "from .iou import IoU"),
        ("callbacks.preview", "from . import iou"),
        ("callbacks", "from ..run import train"),
        ("checkpoint", "from finetune import load"),
        ("run", "from finetune.cli import main"),
        ("config", "from finetune import __version__"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert len(violations(module, source, set(find_modules()))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("data.module", "import lightning.pytorch as pl\nfrom finetune.data.dataset import Sample"),
        ("models.segmenter", "from .backbone import Backbone\nfrom . import neck"),
        ("callbacks", "from finetune.callbacks.iou import IoU"),
        ("callbacks.iou", "from finetune.tasks import SemanticTask\nfrom finetune.metrics.confusion import iou"),
        ("cli", "def f():\n    import finetune\n    from finetune.models import WeightsError"),
        ("run", "import omegaconf, lightning\nfrom finetune import build"),
    ],
)
def test_an_allowed_import_is_let_through(module: str, source: str) -> None:
    assert violations(module, source, set(find_modules())) == []
