"""The strategy of fully sharded training (FSDP2): each device holds a shard of weights, gradients and optimizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from finetune.engine.fsdp import full_optimizer_state, load_optimizer, load_weights
from finetune.engine.lightning_private import set_data_parallel_size


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2 over all devices of all nodes, with checkpoints that are single plain files.

    Every forward pass of a sharded model is collective, but ranks evaluate different numbers of images, and callbacks
    predict on rank 0 alone. So the weights are gathered when an evaluation starts and released when it ends. They fit,
    because an evaluation keeps no gradients or activations.

    Checkpoints hold full tensors: a training can be resumed from one with any strategy.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Shard over all devices of all nodes."""
        set_data_parallel_size(self, self.num_nodes * self.num_processes)
        super().setup_environment()

    def teardown(self) -> None:
        """Wait for the last checkpoint to be written; Lightning's strategy does not."""
        super().teardown()
        self.checkpoint_io.teardown()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Return True: Lightning's strategy would drop the optimizer state of parameters that are frozen on loading."""
        return True

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state with full tensors, on the CPU. Collective."""
        return full_optimizer_state(optimizer)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint file."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load the weights of a checkpoint."""
        assert self.lightning_module is not None
        load_weights(self.lightning_module, checkpoint["state_dict"], strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the optimizer states of a checkpoint."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            load_optimizer(optimizer, state)

    def on_validation_start(self) -> None:
        """Gather the weights."""
        self._gather()

    def on_validation_end(self) -> None:
        """Release the gathered weights."""
        self._release()

    def on_test_start(self) -> None:
        """Gather the weights."""
        self._gather()

    def on_test_end(self) -> None:
        """Release the gathered weights."""
        self._release()

    @torch.inference_mode(False)  # tensors that are made in inference mode cannot be trained later
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
