"""Synchronized batch norms keep the activations of timm norms, and can be reverted."""

import copy
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from finetune.builders.recipe import with_placeholders_for_recipe
from finetune.builders.trainer import build_trainer
from finetune.config.compose import compose, to_plain_dict
from finetune.engine.sync_batchnorm import SyncBatchNorm
from finetune.models import Segmenter

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter("tf_efficientnet_lite0", "fpn", 2, weights="none").eval()


@torch.no_grad()
def test_activations_are_kept_unlike_with_lightnings_plugin(model: Segmenter) -> None:
    before = model(IMAGES)
    torch.testing.assert_close(SyncBatchNorm().apply(copy.deepcopy(model))(IMAGES), before)
    assert not torch.allclose(TorchSyncBatchNorm().apply(copy.deepcopy(model))(IMAGES), before, rtol=0.1)


@torch.no_grad()
def test_every_norm_is_synchronized_and_keeps_its_tensors(model: Segmenter) -> None:
    norms = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    tensors = {name: id(tensor) for name, tensor in model.named_parameters()}
    synchronized = SyncBatchNorm().apply(model)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in synchronized.modules()) == norms > 40
    assert {name: id(tensor) for name, tensor in synchronized.named_parameters()} == tensors


@torch.no_grad()
def test_the_original_norms_are_restored_with_the_trained_tensors(model: Segmenter) -> None:
    kinds = [type(module) for module in model.modules()]
    sync = SyncBatchNorm()
    synchronized = sync.apply(model)
    for module in synchronized.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.running_mean = module.running_mean + 1  # a new tensor, as a move to another device makes
            module.weight.mul_(2)
    learned = synchronized(IMAGES)
    reverted = sync.revert(synchronized)
    assert [type(module) for module in reverted.modules()] == kinds
    torch.testing.assert_close(reverted(IMAGES), learned)


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_the_trainer_uses_our_plugin(tmp_path: Path, precision: str) -> None:
    overrides = ("+trainer.sync_batchnorm=true", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp")
    settings = to_plain_dict(compose(*overrides, f"trainer.precision={precision}"))
    made = build_trainer(with_placeholders_for_recipe(settings), tmp_path)
    assert isinstance(made.strategy._layer_sync, SyncBatchNorm)
