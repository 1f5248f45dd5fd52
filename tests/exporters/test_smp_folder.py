"""Models of smp: the same logits, up to rounding, from nothing but smp and the folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch

import finetune
from finetune.checkpoints.saved_model import SavedModel, save_model
from finetune.exporters import ExportError, SmpFolder, export_model
from finetune.exporters.smp_folder import MODELS
from finetune.inference import ClassIndices, ClassMasks

NAMES = ("ground", "wall", "sky")
OUTPUT = ClassIndices(NAMES)
QUICK = ("fpn", "linknet", "pspnet", "segformer")
HEADS = [pytest.param(head, marks=[] if head in QUICK else [pytest.mark.slow]) for head in MODELS]


def fine_tuned(head: str, backbone: str = "test_resnet", **options: Any) -> SavedModel:
    """Return a small model whose weights and statistics are unlike any pretrained ones."""
    torch.manual_seed(0)
    model = finetune.Segmenter(backbone, head, NAMES, weights="none", **options).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) / 100)
    return SavedModel(model, {}, {"name": "semantic"})


@pytest.mark.parametrize("head", HEADS)
def test_smp_computes_the_same_logits_under_every_head_of_the_table(head: str, tmp_path: Path) -> None:
    saved = fine_tuned(head, mean=(0.1, 0.2, 0.3))
    export_model(SmpFolder(OUTPUT), saved, tmp_path)
    images = torch.randint(0, 256, (1, 3, 128, 96), dtype=torch.uint8)
    network = smp.from_pretrained(str(tmp_path)).eval()
    facts = json.loads((tmp_path / "config.json").read_text())["_finetune"]
    mean, std = (torch.tensor(facts[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = saved.model(saved.model.normalize(images))
        assert (network((images - mean) / std) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert facts["classes"] == list(NAMES)


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("unet", {"backbone": "test_convnext"}),
        ("fpn", {"backbone": "test_efficientnet", "in_channels": 1}),
        ("fpn", {"head_options": {"merge_policy": "cat", "interpolation": "bilinear", "pyramid_channels": 64}}),
        ("unet", {"head_options": {"decoder_channels": [64, 32, 16, 16, 8], "deep_supervision": True}}),
        ("deeplabv3plus", {"output_stride": 8, "head_options": {"separable": False, "atrous_rates": [2, 4, 6]}}),
        ("fpn", {"lora": {"rank": 2, "alpha": 4, "targets": None}, "auxiliary": {}}),
    ],
    ids=str,
)
def test_options_and_other_backbones_come_along(head: str, options: dict[str, Any], tmp_path: Path) -> None:
    files, _ = export_model(SmpFolder(OUTPUT), fine_tuned(head, **options), tmp_path)
    assert {file.name for file in files} == {"README.md", "config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("linear", {}, "with head linear cannot .* smp computes what these heads do: unet, "),
        ("unet", {"head_options": {"center": True}}, r"of this head with head\.center=True"),
        (
            "unet",
            {"head_options": {"sum_logits": True}},
            r"of this head with head\.sum_logits=True; train a model without",
        ),
        ("unet", {"head_options": {"attention_type": "scse"}}, "weights that this one lacks, such as decoder"),
        ("pspnet", {"head_options": {"decoder_channels": 64}}, r"of this head with head\.decoder_channels=64"),
        ("unet", {"output_stride": 16}, r"of this head with backbone\.output_stride=16"),
        ("unet", {"backbone": "test_convnext", "neck": "learned"}, "of this head with neck=learned"),
        ("deeplabv3", {"backbone": "test_mambaout"}, "with a backbone that cannot be dilated"),
        ("fpn", {"backbone": "test_vit"}, "backbone test_vit with head fpn cannot"),
    ],
)
def test_models_that_smp_lacks_are_refused_by_name(
    head: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export_model(SmpFolder(OUTPUT), fine_tuned(head, **options), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_calibrated_model_is_refused_rather_than_exported_without_its_temperature(tmp_path: Path) -> None:
    saved = fine_tuned("fpn")
    saved.model.temperature = 2.0
    with pytest.raises(ExportError, match=r"of this head with temperature=2\.0"):
        export_model(SmpFolder(OUTPUT), saved, tmp_path)


def test_the_card_says_how_logits_become_classes(tmp_path: Path) -> None:
    saved = fine_tuned("fpn")
    save_model(tmp_path / "model", saved.model, {}, {}, {"name": "multilabel", "thresholds": [0.5, 0.4, 0.6]})
    finetune.export(f"run={tmp_path / 'model'}", "format=smp", f"output={tmp_path / 'smp'}")
    assert "exceeds [0.5, 0.4, 0.6]" in (tmp_path / "smp" / "README.md").read_text()
    export_model(SmpFolder(ClassMasks(NAMES, 0.3)), saved, tmp_path / "again")
    assert "exceeds [0.3, 0.3, 0.3]" in (tmp_path / "again" / "README.md").read_text()
