"""What a step of training costs: estimated from shapes alone, or measured on real steps."""

import copy
import ctypes
import gc
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from finetune.profiling import memory
from finetune.tuning.freeze import apply_trainability


@dataclass(frozen=True)
class Cost:
    """What one step of a training takes, by count and not by the clock.

    Attributes:
        parameters: bytes of all parameters, frozen ones too.
        gradients: bytes of the gradients.
        optimizer: bytes of the optimizer's state.
        activations: bytes that the forward pass keeps for the backward pass; under autocast with the copies of
            weights that it makes.
        forward_flops: floating-point operations of the forward pass.
        backward_flops: and of the backward pass.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    forward_flops: int
    backward_flops: int

    @property
    def memory(self) -> int:
        """Bytes of all four: what a step cannot do without. Its temporaries, and those of the loss, come on top."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def flops(self) -> int:
        """Floating-point operations of the whole step."""
        return self.forward_flops + self.backward_flops


@dataclass(frozen=True)
class MeasuredCost:
    """What one step of a training really took.

    On CUDA memory is that of all tensors on the device, to the byte. On CPU it is the resident memory of the process,
    Python and libraries included: only its growth says something about the step, to about a tenth, as C keeps some
    memory that was freed.

    Attributes:
        seconds: of a step, the median.
        held: bytes in use before the steps; None where the system does not tell.
        peak: most bytes in use during them; None where the system does not tell.
    """

    seconds: float
    held: int | None
    peak: int | None

    @property
    def growth(self) -> int | None:
        """Bytes that a step needs on top of what is held; None where the system does not tell."""
        return None if self.held is None or self.peak is None else self.peak - self.held


def estimate(
    model: nn.Module,
    image_shape: tuple[int, int, int, int],
    trainable: Collection[str],
    optimizer_slots: int = 2,
    autocast: torch.dtype | None = None,
) -> Cost:
    """What a training step of the model costs when these parameters train; nothing is computed, and no data needed.

    A copy of the model without values goes forward and backward, so the model itself is left as it is. The count is
    of the model alone: the loss adds some tensors of the size of the logits. Only convolutions, matrix products and
    attention count as operations, a multiplication and an addition as two.

    Args:
        model: takes images and returns one tensor; in `channels_last`, as it trains, for the activations to be exact.
        image_shape: (B, C, H, W), of one device's batch.
        trainable: full names of the parameters that train; all others rest as `apply_trainability` has it.
        optimizer_slots: numbers that the optimizer keeps for each parameter: 2 for Adam, 1 for momentum, 0 for SGD.
        autocast: half-precision type of mixed precision, such as `torch.bfloat16`; None computes in the model's own.
            The operations it takes are those of the CPU; on CUDA some, such as layer norm, stay in float32.

    Raises:
        ValueError: a name in `trainable` that the model has no parameter of.
    """
    if strays := sorted(set(trainable) - {name for name, _ in model.named_parameters()}):
        raise ValueError(f"the model has no parameter '{strays[0]}'. Give full names, as of `named_parameters()`.")
    with FakeTensorMode(allow_non_fake_inputs=True):
        hollow = _hollow(model)
        apply_trainability(hollow, trainable)
        parameters = list(hollow.parameters())
        images = torch.empty(image_shape, dtype=parameters[0].dtype)
        precision = torch.autocast("cpu", dtype=autocast, enabled=autocast is not None)
        with _counter() as forward, _saved_storages(hollow) as saved, precision:
            output = hollow(images)
        with _counter() as backward:
            if output.requires_grad:
                output.backward(torch.empty_like(output))
        # a trainable parameter that the output does not depend on has neither gradient nor state
        gradients = sum(parameter.grad.nbytes for parameter in parameters if parameter.grad is not None)
        return Cost(
            parameters=sum(parameter.nbytes for parameter in parameters),
            gradients=gradients,
            optimizer=optimizer_slots * gradients,
            activations=sum(storage.nbytes() for storage in saved.values()),
            forward_flops=forward.get_total_flops(),
            backward_flops=backward.get_total_flops(),
        )


def measure(step: Callable[[], None], device: torch.device | str, repeats: int = 5) -> MeasuredCost:
    """Time and memory of a step, after a first one that is not counted: it sets up kernels and optimizer state.

    Args:
        step: forward, backward and optimizer, on `device`.
        device: that the step runs on.
        repeats: how many steps are timed.

    Raises:
        ValueError: no repeats.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: at least one step has to be timed.")
    device = torch.device(device)
    _seconds(step, device)
    held = _reset_peak(device)
    seconds = [_seconds(step, device) for _ in range(repeats)]
    return MeasuredCost(median(seconds), held, None if held is None else _peak(device))


def _hollow(model: nn.Module) -> nn.Module:
    """A copy in structure, with tensors that have a shape and no values; within a fake tensor mode."""
    empty: dict[int, Tensor] = {}
    for parameter in model.parameters():
        empty[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="cpu"))
    for buffer in model.buffers():
        empty[id(buffer)] = torch.empty_like(buffer, device="cpu")
    return copy.deepcopy(model, empty)


@contextmanager
def _saved_storages(model: nn.Module) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Memory that autograd keeps while within, each piece once and under its address; none that the model holds."""
    held = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in held:
            saved[storage._cdata] = storage  # kept alive, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(
    grad_output: Sequence[int], images: Sequence[int], weight: Sequence[int], *options: Any, **_: Any
) -> int:
    """Operations of a convolution's backward pass: those of its forward pass for each gradient that is wanted.

    Torch 2.14's own count takes the weight's gradient of a grouped convolution `groups` times.
    """
    *_geometry, transposed, _output_padding, _groups, wanted = options
    pixels = math.prod((images if transposed else grad_output)[2:])
    return 2 * images[0] * pixels * math.prod(weight) * sum(map(bool, wanted[:2]))


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    step()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - began


def _reset_peak(device: torch.device) -> int | None:
    """Forget the highest use of memory so far; bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    gc.collect()
    _return_freed_memory()
    return memory.resident() if device.type == "cpu" and memory.reset_peak() else None


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory.peak()


def _return_freed_memory() -> None:
    """Hand memory that C has freed back to the system, or it would be taken for memory in use."""
    with suppress(AttributeError):  # glibc has it, musl does not
        ctypes.CDLL(None).malloc_trim(0)
