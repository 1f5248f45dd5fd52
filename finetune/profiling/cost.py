"""Cost of a training step, estimated from shapes alone; and the time and memory of any call."""

import copy
import gc
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from finetune.io.allocator import return_memory
from finetune.models import TunableModel
from finetune.profiling import memory
from finetune.tuning.freeze import apply_trainability


@dataclass(frozen=True)
class Cost:
    """The estimated memory and operations of one training step.

    Attributes:
        parameters: bytes of all parameters, including frozen ones.
        gradients: bytes of the gradients.
        optimizer: bytes of the optimizer state.
        activations: bytes that the forward pass saves for the backward pass, including the copies of weights that
            autocast makes.
        forward_flops: floating-point operations of the forward pass.
        backward_flops: floating-point operations of the backward pass.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    forward_flops: int
    backward_flops: int

    @property
    def memory(self) -> int:
        """Lower bound of the memory of a step, in bytes: all of the above, without temporaries and the loss."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def flops(self) -> int:
        """Floating-point operations of the step."""
        return self.forward_flops + self.backward_flops


def estimate(
    model: nn.Module,
    image_shape: tuple[int, int, int, int],
    trainable: Collection[str],
    optimizer_slots: int = 2,
    autocast: torch.dtype | None = None,
) -> Cost:
    """Estimate the cost of a training step in which the given parameters train, without data and without computing it.

    A copy of the model with fake tensors runs forward and backward, so the model is not changed. The loss is not
    counted; it adds some tensors of the size of the logits. Operations are those of convolutions, matrix products and
    attention; a multiplication and an addition count as two.

    Args:
        model: model that takes images and returns one tensor; in `channels_last`, as in training, or the activations
            are not exact.
        image_shape: (B, C, H, W), the batch of one device.
        trainable: full names of the parameters that train; all others are frozen as by `apply_trainability`.
        optimizer_slots: numbers per parameter in the optimizer state: 2 for Adam, 1 for momentum, 0 for SGD.
        autocast: dtype of mixed precision, such as `torch.bfloat16`; None computes in the model's dtype. The operations
            that it affects are those of the CPU; on CUDA some, such as layer norm, stay in float32.

    Raises:
        ValueError: `trainable` has a name that is not a parameter of the model.
    """
    if unknown := sorted(set(trainable) - {name for name, _ in model.named_parameters()}):
        raise ValueError(f"the model has no parameter '{unknown[0]}'. Give full names, as in `named_parameters()`.")
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake_model = _copy_without_values(model)
        apply_trainability(fake_model, trainable)
        parameters = list(fake_model.parameters())
        images = torch.empty(image_shape, dtype=parameters[0].dtype)
        precision = torch.autocast("cpu", dtype=autocast, enabled=autocast is not None)
        with _counter() as forward, _saved_storages(fake_model) as saved, precision:
            output = (fake_model.dense_outputs if isinstance(fake_model, TunableModel) else fake_model)(images)
        with _counter() as backward:
            if output.requires_grad:
                output.backward(torch.empty_like(output))
        # a trainable parameter that does not affect the output has neither gradient nor optimizer state
        gradients = sum(parameter.grad.nbytes for parameter in parameters if parameter.grad is not None)
        return Cost(
            parameters=sum(parameter.nbytes for parameter in parameters),
            gradients=gradients,
            optimizer=optimizer_slots * gradients,
            activations=sum(storage.nbytes() for storage in saved.values()),
            forward_flops=forward.get_total_flops(),
            backward_flops=backward.get_total_flops(),
        )


def _copy_without_values(model: nn.Module) -> nn.Module:
    """Return a copy of the model with fake tensors; call it inside a `FakeTensorMode`."""
    empty: dict[int, Tensor] = {}
    for parameter in model.parameters():
        empty[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="cpu"))
    for buffer in model.buffers():
        empty[id(buffer)] = torch.empty_like(buffer, device="cpu")
    return copy.deepcopy(model, empty)


@contextmanager
def _saved_storages(model: nn.Module) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Collect the storages that autograd saves inside the context, each once, except those of the model itself."""
    of_model = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in of_model:
            saved[storage._cdata] = storage  # kept alive, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _counter() -> FlopCounterMode:
    aten = torch.ops.aten
    rules = {
        aten.convolution_backward: _convolution_backward,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=rules)


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the operations of attention on a CPU, which the counter of torch 2.14 leaves out: two matrix products."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(
    grad_output: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """Return the operations of its backward pass: the scores again, and the gradients of four matrices."""
    return 2 * math.prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


def _convolution_backward(
    grad_output: Sequence[int], images: Sequence[int], weight: Sequence[int], *options: Any, **_: Any
) -> int:
    """Return the operations of a convolution's backward pass: those of its forward pass per requested gradient.

    The counter of torch 2.14 counts the weight gradient of a grouped convolution `groups` times.
    """
    *_geometry, transposed, _output_padding, _groups, output_mask = options
    pixels = math.prod((images if transposed else grad_output)[2:])
    return 2 * images[0] * pixels * math.prod(weight) * sum(map(bool, output_mask[:2]))


def measure_memory(step: Callable[[], object], device: torch.device) -> int | None:
    """Return the bytes that a step needs in addition to those in use; None if the system does not report it.

    On CUDA, they are the exact size of tensors. On the CPU they are the growth of the resident memory, to about 10 %,
    because the C allocator keeps some freed memory.
    """
    held = _reset_peak(device)
    seconds_of(step, device)
    peak = None if held is None else peak_memory(device)
    return None if held is None or peak is None else peak - held


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes used since the last reset: by tensors on a GPU, otherwise by this process in main memory.

    None if the system does not report it.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory.peak()


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """Return the time that a step takes on a device, in seconds."""
    start = time.perf_counter()
    step()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def _reset_peak(device: torch.device) -> int | None:
    """Reset the peak memory and return the bytes in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    gc.collect()
    return_memory()  # or it would count as memory in use
    return memory.resident() if device.type == "cpu" and memory.reset_peak() else None
