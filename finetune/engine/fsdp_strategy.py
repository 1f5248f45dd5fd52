"""The strategy of fully sharded training (FSDP2): a device keeps only a share of weights, gradients and optimizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from finetune.engine.fsdp import full_optimizer_state, load_optimizer, load_weights


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2 over all devices of all nodes, with checkpoints that are single plain files.

    Every forward pass of a sharded model waits for all ranks, but ranks evaluate different numbers of images, and
    callbacks draw on the first rank alone. So the weights are gathered once when an evaluation starts and stay until
    it ends: no device needs its gradients or activations then.

    Checkpoints are as of one device: whichever strategy writes one, any other can go on with it.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Shard over all devices, however they were counted."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def teardown(self) -> None:
        """Wait for the last checkpoint too, which Lightning's own leaves to the end of the process."""
        super().teardown()
        self.checkpoint_io.teardown()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning's own would drop the state of parameters that are frozen when a checkpoint is read."""
        return True

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state with whole tensors, on the CPU. Called by all ranks."""
        return full_optimizer_state(optimizer)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a file."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load the weights of a checkpoint that was read."""
        assert self.lightning_module is not None
        load_weights(self.lightning_module, checkpoint["state_dict"], strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the states of the optimizers of a checkpoint that was read."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            load_optimizer(optimizer, state)

    def on_validation_start(self) -> None:
        """Gather the weights."""
        self._gather()

    def on_validation_end(self) -> None:
        """Keep a share of the weights only."""
        self._release()

    def on_test_start(self) -> None:
        """Gather the weights."""
        self._gather()

    def on_test_end(self) -> None:
        """Keep a share of the weights only."""
        self._release()

    @torch.inference_mode(False)  # or the gathered weights would be tensors that no later training may use
    @torch.no_grad()
    def _gather(self) -> None:
        for unit in self._units():
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()

    @torch.inference_mode(False)
    def _release(self) -> None:
        for unit in self._units():
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()

    def _units(self) -> list[FSDPModule]:
        assert self.model is not None
        return [module for module in self.model.modules() if isinstance(module, FSDPModule)]
