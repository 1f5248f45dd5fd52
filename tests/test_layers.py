"""Keep the layers of the package: imports point down only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import finetune

PACKAGE = Path(finetune.__file__).parent
# from the top down; packages of one layer never import each other
LAYERS = (
    ("__main__",),
    ("cli",),
    ("__init__",),
    ("commands",),
    ("runs",),
    ("builders",),
    ("reports", "exporters"),
    ("callbacks",),
    ("tasks",),
    ("engine", "inference", "checkpoints", "profiling", "explanations"),
    ("models", "data", "tuning"),
    ("losses", "metrics", "plots", "recipe", "catalog"),
    ("config",),
    ("io", "instances"),
)
LEVEL = {name: level for level, names in enumerate(reversed(LAYERS)) for name in names}
MAY_IMPORT = {  # third-party libraries that few packages may import
    "hydra": {"cli", "commands", "runs", "builders", "config"},
    "omegaconf": {"cli", "commands", "runs", "builders", "config"},
    "lightning": {
        "commands",
        "runs",
        "builders",
        "reports",
        "callbacks",
        "tasks",
        "engine",
        "checkpoints",
        "data.module",
    },
}


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
    """Return a line for each import that the module's layer forbids."""
    package = module.split(".")[0]
    found = []
    for name in imported(module, source, modules):
        top = name.split(".")[0]
        if name.startswith("own:"):
            target = name.removeprefix("own:")
            other = target.split(".")[0]
            if LEVEL[other] > LEVEL[package]:
                found.append(f"{module} imports {target}, which is in a higher layer")
            elif other != package and LEVEL[other] == LEVEL[package]:
                found.append(f"{module} imports {target}, another package of its layer")
            elif package == other == "callbacks" and module != "callbacks" and target != module:
                found.append(f"{module} imports {target}, another callback")
        elif not {module, package} & MAY_IMPORT.get(top, {package}):
            found.append(f"{module} imports {top}")
    return found


def test_every_package_has_a_layer() -> None:
    assert {module.split(".")[0] for module in find_modules()} == set(LEVEL)
    assert len(find_modules()) > 100


def test_imports_point_down_only() -> None:
    modules = find_modules()
    found = [text for name, source in modules.items() for text in violations(name, source, set(modules))]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("losses", "from finetune.metrics.confusion import iou"),
        ("losses", "from finetune.data import Record"),
        ("losses", "import lightning.pytorch as pl"),
        ("plots.panels", "from finetune import builders"),
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
        ("callbacks", "from ..commands.train import train"),
        ("checkpoints.saved_model", "from finetune import load"),
        ("commands.train", "from finetune.cli import main"),
        ("config.compose", "from finetune import __version__"),
        ("engine.ddp", "from finetune.checkpoints import adapters"),
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
        ("commands.train", "import omegaconf, lightning\nfrom finetune import builders"),
    ],
)
def test_an_allowed_import_is_let_through(module: str, source: str) -> None:
    assert violations(module, source, set(find_modules())) == []
