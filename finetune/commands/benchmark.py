"""The command `benchmark`: what the predictions of a run cost, and what several runs cost for their scores."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from finetune.builders.task import restore_pixel_output
from finetune.checkpoints.saved_model import SavedModel, load_model
from finetune.config.compose import load_config, required_paths
from finetune.config.errors import ConfigError, usage
from finetune.config.options import Config
from finetune.config.overrides import typed
from finetune.engine.environment import device_name
from finetune.exporters.onnx_file import FILE, open_session
from finetune.exporters.openvino_model import MODEL, open_model
from finetune.inference import Predictor
from finetune.io.messages import format_bytes, format_table, html_table
from finetune.models.input_size import Size, check_size
from finetune.plots.speed import latency_figure
from finetune.profiling.cost import estimate
from finetune.profiling.latency import measure_latency
from finetune.reports.speed import Speed, cells, write_speeds
from finetune.runs.console import configure_logging
from finetune.runs.folder import check_output, output_folder, run_folder
from finetune.runs.saved_config import read_config

logger = logging.getLogger(__name__)
Predict = Callable[[Tensor], object]
Form = Callable[[Predictor, Path], dict[str, Predict]]


@dataclass(frozen=True)
class BenchmarkResult:
    """What was measured.

    Attributes:
        folder: table and figure.
        rows: one for each run, form and batch size.
    """

    folder: Path
    rows: tuple[Speed, ...]

    def _repr_html_(self) -> str:
        return html_table(cells(self.rows))


def benchmark(*overrides: str | DictConfig) -> BenchmarkResult:
    """Measure the time and memory of predictions: from uint8 images in main memory to predictions there.

    Args:
        overrides: of `finetune benchmark`, such as `run=DIR`; or one composed config.

    Raises:
        ConfigError: there is no model, or a setting is out of range.
    """
    config = load_config(overrides, "benchmark")
    configure_logging()
    paths = required_paths(config, "run")
    with usage():
        _check(config)
        check_output(config["output"])
        saved = [load_model(path) for path in paths]
        predictors = [_predictor(each, config["device"]) for each in saved]
        sizes = [_size(config, path, each) for path, each in zip(paths, saved, strict=True)]
    default = (run_folder(paths[0]) or Path()) / "benchmark"
    folder = output_folder(config["output"], default)
    device, threads = device_name(predictors[0].device), torch.get_num_threads()
    logger.info(f"{device}, {threads} threads")
    rows: list[Speed] = []
    for path, predictor, size in zip(paths, predictors, sizes, strict=True):
        logger.info(_describe(path, predictor, size))
        rows += _measure(path, predictor, size, config)
    if not rows:
        raise ConfigError("none of the forms could be measured; the log says why. Choose others (forms).")
    logger.info(format_table(cells(rows), right=range(2, 8)))
    write_speeds(folder, rows, {"device": device, "threads": threads, "torch": str(torch.__version__)})
    if len(paths) > 1:
        _draw(folder / "latency.png", rows, dict(zip(map(str, paths), saved, strict=True)))
    logger.info(f"tables in {folder}")
    return BenchmarkResult(folder, tuple(rows))


def _check(config: Config) -> None:
    if scalars := [name for name in ("forms", "batch_sizes") if not isinstance(config[name], list)]:
        raise ConfigError(f"{scalars[0]}={config[scalars[0]]}: expected a list, {scalars[0]}=[{config[scalars[0]]}].")
    if unknown := [form for form in config["forms"] if form not in FORMS]:
        raise ConfigError(f"forms: '{unknown[0]}' is not one of {', '.join(FORMS)}.")
    counts, seconds = config["batch_sizes"], config["seconds"]
    if not counts or not all(type(count) is int and count > 0 for count in counts):
        raise ConfigError(f"batch_sizes={counts}: expected a list of whole numbers of 1 or more.")
    if type(seconds) not in (int, float) or not seconds >= 0:
        raise ConfigError(f"seconds={seconds}: expected 0 or more.")
    if config["size"] is not None:
        check_size(config["size"], "size")


def _predictor(saved: SavedModel, device: str | None) -> Predictor:
    return Predictor(saved.segmenter, device, restore_pixel_output(saved.task, saved.model.class_names))


def _size(config: Config, path: Path, saved: SavedModel) -> Size:
    """Return the size to measure at: the given one, that of the training crops, or the smallest of the backbone."""
    run = run_folder(path)
    if config["size"] is not None:
        height, width = config["size"]
        return height, width
    crop: Any = run and read_config(run)["augment"].get("crop")
    crop = saved.model.backbone.dummy_input().shape[-2:] if crop is None else crop
    height, width = (crop, crop) if isinstance(crop, int) else crop
    return height * saved.model.reduce, width * saved.model.reduce  # crops are of images that are reduced already


def _describe(path: Path, predictor: Predictor, size: Size) -> str:
    """Return the name, parameters and operations of a model."""
    model = predictor.model
    cost = estimate(model, (1, model.backbone.in_channels, *size), [])
    counts = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (model, model.backbone))
    total, backbone = (f"{count:.2f}M" for count in counts)
    views = "" if model.views is None else f" for all of {model.views.describe()}"
    return (
        f"{path}: {model.backbone.name}, {total} parameters ({backbone} of the backbone), "
        f"{format_bytes(cost.parameters)}; {size[1]} x {size[0]} pixels take {cost.forward_flops / 1e9:.2f} GFLOPs, "
        f"which are {cost.forward_flops / 2e9:.2f} GMACs{views}"
    )


def _measure(path: Path, predictor: Predictor, size: Size, config: Config) -> Iterator[Speed]:
    """Yield a row for each form and batch size; one that cannot run is logged and left out."""
    for form in config["forms"]:
        try:
            for name, predict in FORMS[form](predictor, path).items():
                for count in config["batch_sizes"]:
                    shape = (count, predictor.model.backbone.in_channels, *size)
                    yield _row(path, name, predict, predictor, shape, config)
        except Exception as error:  # those of compilers and runtimes have no common type
            logger.warning(f"{form} is left out: {(str(error).strip() or type(error).__name__).splitlines()[0]}")


def _row(
    path: Path, form: str, predict: Predict, predictor: Predictor, shape: tuple[int, int, int, int], config: Config
) -> Speed:
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latency = measure_latency(lambda: predict(images), predictor.device, config["seconds"])
    low, median, high = (1000 * latency.quantile(share) for share in (0.05, 0.5, 0.95))
    megabytes = None if latency.growth is None else latency.growth / 1e6
    return Speed(str(path), form, shape[0], *shape[2:], low, median, high, 1000 * shape[0] / median, megabytes)


def _eager(predictor: Predictor, _: Path) -> dict[str, Predict]:
    return {"torch": predictor.predict_images}


def _compiled(predictor: Predictor, _: Path) -> dict[str, Predict]:
    """Return the prediction with a model that torch compiles for each size."""
    model = torch.compile(predictor.model)

    @torch.inference_mode()
    def predict(images: Tensor) -> Tensor:
        logits = model(predictor.model.normalize(images.to(predictor.device)))
        return predictor.output.decode(logits).cpu()

    return {"compiled": predict}


def _exported(form: str, name: str, open_file: Callable[[Path], tuple[str, Predict]]) -> Form:
    """Return the form of the files of a name that were exported to a run: their predictions, by their precision."""

    def predictions(predictor: Predictor, path: Path) -> dict[str, Predict]:
        files = sorted(((run_folder(path) or path) / "export").glob(f"*/{name}"))
        if not files or predictor.device.type != "cpu":
            raise RuntimeError(
                f"it runs on device=cpu, and needs exported files: finetune export {typed('run', path)} format={form}"
            )
        opened = [(file.parent.name, *open_file(file)) for file in files]
        same = Counter(precision for _, precision, _ in opened)
        return {
            f"{form} {precision}{f' ({folder})' if same[precision] > 1 else ''}": run
            for folder, precision, run in opened
        }

    return predictions


FORMS: dict[str, Form] = {
    "torch": _eager,
    "compiled": _compiled,
    "onnx": _exported("onnx", FILE, open_session),
    "openvino": _exported("openvino", MODEL, open_model),
}


def _draw(path: Path, rows: Sequence[Speed], saved: dict[str, SavedModel]) -> None:
    """Draw the IoU of the runs that have one over the latency of a single image, or of the smallest batch."""
    iou = {run: next((v for k, v in each.scores.items() if k.endswith("/iou")), None) for run, each in saved.items()}
    smallest = min((row.batch_size for row in rows), default=0)
    forms: dict[str, list[tuple[str, float, float]]] = {}
    for row in rows:
        if row.batch_size == smallest and (score := iou[row.run]) is not None:
            forms.setdefault(row.form, []).append((Path(row.run).name, row.median_ms / row.batch_size, score))
    if forms:
        latency_figure(forms, path)
        logger.info(f"figure       {path}")
