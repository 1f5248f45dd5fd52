"""The command `explain`: heat maps of what predictions depend on, and what fine-tuning changed in a backbone."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from finetune.builders.evaluation_data import evaluation_data
from finetune.builders.task import restore_pixel_output
from finetune.checkpoints.saved_model import SavedModel, load_model
from finetune.commands.predict import trained_range
from finetune.config.compose import load_config, required, required_paths
from finetune.config.errors import ConfigError, usage
from finetune.config.options import Config
from finetune.explanations.heat_maps import attention_rollout, find_target, grad_cam, occlusion
from finetune.explanations.similarity import backbone_similarity
from finetune.inference import Predictor
from finetune.inference.files import find_images, output_names
from finetune.inference.finite import count_non_finite
from finetune.inference.pipeline import read_ahead
from finetune.inference.problems import raise_problems
from finetune.io.messages import format_table, shortlist, suggest
from finetune.models import Segmenter
from finetune.plots.figures import similarity_figure
from finetune.plots.heat_map import heat_map_page
from finetune.reports.evaluation import write_rows
from finetune.runs.console import configure_logging
from finetune.runs.folder import check_output, output_folder, run_folder
from finetune.runs.saved_config import read_config

logger = logging.getLogger(__name__)
IMAGES = 32  # that cka compares
OPTIONS = {  # of each method, apart from those that all have
    "gradcam": ("class", "region", "layer"),
    "occlusion": ("class", "region", "patch", "stride"),
    "rollout": ("class", "region"),
    "cka": ("images",),
}


def explain(*overrides: str | DictConfig) -> list[Path]:
    """Write a page and a heat map of each image; or, with `method=cka`, how similar the backbone's layers still are.

    Args:
        overrides: of `finetune explain`, such as `run=DIR input=photos class=car`; or one composed config.

    Returns:
        The pages, or the figure.

    Raises:
        ConfigError: there is no model or image, or a setting or the method does not fit.
            Or files cannot be read: all of them are named, after all others have been explained.
    """
    config = load_config(overrides, "explain")
    configure_logging()
    path = Path(required(config, "run"))
    with usage():
        _check(config)
        check_output(config["output"])
        saved = load_model(path)
        model = saved.segmenter
        predictor = Predictor(
            model, config["device"], restore_pixel_output(saved.task, model.class_names), trained_range(path, saved)
        )
        if model.views is not None or model.window is not None:
            logger.info("images are explained whole and in one view, without the windows and views of predictions")
            model.views = model.window = None
        default = (run_folder(path) or Path()) / "explanations" / config["method"]
        folder = output_folder(config["output"], default)
        if config["method"] == "cka":
            files = [_compare(config, path, saved, predictor, folder)]
        else:
            files = list(_heat_maps(config, predictor, folder))
    logger.info(f"{len(files):,} figures in {folder}")
    return files


def _check(config: Config) -> None:
    method, box = config["method"], config["region"]
    if method not in OPTIONS:
        raise ConfigError(f"method={method}: choose from {', '.join(OPTIONS)}.")
    for name in sorted({name for names in OPTIONS.values() for name in names} - set(OPTIONS[method])):
        if config[name] is not None:
            others = " and ".join(other for other, names in OPTIONS.items() if name in names)
            raise ConfigError(f"{name}={config[name]} has no effect with method={method}, only with {others}.")
    for name in ("layer", "patch", "stride", "images"):
        if config[name] is not None and not (type(config[name]) is int and config[name] > 0):
            raise ConfigError(f"{name}={config[name]}: expected a whole number of 1 or more.")
    if box is not None and not (isinstance(box, list) and [type(side) for side in box] == [int] * 4):
        raise ConfigError(f"region={box}: expected [top,left,bottom,right] in pixels, such as [0,0,100,200].")


def _heat_maps(config: Config, predictor: Predictor, folder: Path) -> Iterator[Path]:
    """Write `<image>.png` and `<image>.npy`, float32 (H, W), for each image, and yield the former.

    Raises:
        DataError: files that cannot be read, all of them named, after all others have been explained.
    """
    model, missing, problems = predictor.model, list[Path](), list[str]()
    index = None if config["class"] is None else _class_index(str(config["class"]), model.class_names)
    names = output_names(find_images(required_paths(config, "input")))
    for path, image, _ in read_ahead(names, predictor.read, problems):
        normalized = model.normalize(image[None].to(predictor.device))
        with torch.no_grad():
            logits = model(normalized)
        if count_non_finite(logits):
            raise ConfigError(f"'{path}': the model's outputs are NaN or infinite; there is nothing to explain.")
        prediction = predictor.output.decode(logits)[0]
        chosen, region = find_target(prediction, model.classes, index, config["region"])
        if not region.any():
            missing.append(path)
            continue
        heat = _heat_map(config, predictor, normalized, chosen, region).float().cpu().numpy()
        title = f"{config['method']}: {model.class_names[chosen]}"
        page = heat_map_page(image, prediction, heat, region.byte(), model.class_names, title)
        file = folder / names[path]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file.with_suffix(".npy"), heat)
        page.save(file)
        yield file
    if missing:
        logger.warning(
            f"{len(missing):,} images have no pixel that is predicted as the class, and are left out: "
            f"{shortlist(missing)}. region=[top,left,bottom,right] explains the class in other pixels."
        )
    raise_problems(problems, len(names), f" The heat maps of the others are in '{folder}'." * folder.exists())


def _class_index(name: str, class_names: Sequence[str]) -> int:
    if name not in class_names:
        raise ConfigError(f"class={name}: {suggest(name, class_names)}")
    return class_names.index(name)


def _heat_map(config: Config, predictor: Predictor, image: Tensor, index: int, region: Tensor) -> Tensor:
    """Return the values (H, W) of the method for a normalized image (1, C, H, W)."""
    model = predictor.model
    if config["method"] == "gradcam":
        return grad_cam(model, image, index, region, config["layer"])
    if config["method"] == "rollout":
        return attention_rollout(model, image, region)
    sizes = {name: config[name] for name in ("patch", "stride") if config[name] is not None}
    return occlusion(lambda images: predictor.output.probabilities(model(images))[:, index], image, region, **sizes)


def _compare(config: Config, path: Path, saved: SavedModel, predictor: Predictor, folder: Path) -> Path:
    """Write `cka.csv` and `cka.png` of the fine-tuned backbone and the one with its pretrained weights."""
    run, model = run_folder(path), predictor.model
    trained = read_config(run) if run is not None else None
    weights = str(trained["backbone"]["weights"] or "none") if trained else "none"
    if weights == "none":
        reason = "was trained with backbone.weights=none" if trained else "is a model without the config of its run"
        raise ConfigError(f"run={path} {reason}, so there are no pretrained weights to compare with.")
    pretrained = Segmenter.from_config(model.config(), weights).eval().to(predictor.device)
    if config["input"]:
        images = [partial(predictor.read, each) for each in find_images(required_paths(config, "input"))]
    else:
        data, split = evaluation_data({"data": {}, "split": "val"}, saved, trained, run and run / "splits.csv")
        images = [partial(record.image.read, data.channels) for record in data.datasets[split].records]
    count = min(len(images), config["images"] or IMAGES)
    normalized = (
        model.normalize(images[index * len(images) // count]()[None].to(predictor.device)) for index in range(count)
    )
    reduced = (F.avg_pool2d(each, model.reduce, ceil_mode=True, count_include_pad=False) for each in normalized)
    layers = backbone_similarity(pretrained.backbone, model.backbone, reduced)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "cka.csv", [{"layer": layer, "cka": value} for layer, value in layers])
    similarity_figure(layers, folder / "cka.png")
    logger.info(f"CKA over {count:,} images, 1 is unchanged:\n{format_table([(n, f'{v:.4f}') for n, v in layers])}")
    return folder / "cka.png"
