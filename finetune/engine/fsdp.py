"""Models whose parameters are spread over devices (FSDP2): how they are cut, loaded, and put together again."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from timm.optim import get_optimizer_info
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from finetune.models import TunableModel
from finetune.models.backbone import PROBE

M = TypeVar("M", bound=TunableModel)
LARGEST = 2**23  # parameters that are gathered together, where the network has modules of that size: 32 MiB in float32
SMALLEST = 0.01  # share of the model below which a module is not worth a collective of its own
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-true")  # that Lightning's strategy takes
# torch refuses their steps on shares; Muon's go through but end at other weights; Adahessian and Kron are untried
WHOLE_ONLY = {"Adafactor", "Adahessian", "AdamP", "Kron", "Mars", "Muon", "NvNovoGrad", "SGDP"}


def shard(model: TunableModel, mesh: DeviceMesh) -> None:
    """Give each device of the mesh its share of every parameter; all begin with the weights of the first rank.

    The modules stay, their parameters become new ones (`DTensor`). Those that the logits do not depend on are left
    whole. Frozen and trainable parameters may be mixed and may change their places at any time between two steps.

    Args:
        model: sharded in place, unless it is already.
        mesh: of one dimension.

    Raises:
        ValueError: parameters without a dimension, or shared between modules, neither of which can be sharded.
    """
    if is_sharded(model):
        return
    _check(model)
    unused = model.unused_parameters()
    ignored = {parameter for name, parameter in model.named_parameters() if name in unused}
    units = sharding_units(model)
    model.to(memory_format=torch.contiguous_format)  # shards are cut from memory in torch's plain order
    start = model.state_dict()
    for unit in (*units, model):
        # the root too, so that parameters are shards whenever a callback looks at them
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
    # no cause for alarm: the logits are a view, being cropped, and nobody changes them in place
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(FSDPSegmenter\) returned a view")
    model.to(mesh.device_type)  # what is not sharded
    load_weights(model, start)


def _check(model: nn.Module) -> None:
    named = dict(model.named_parameters(remove_duplicate=False))
    times = Counter(map(id, named.values()))
    refused = {
        "have no dimension to be split along": [name for name, p in named.items() if p.ndim == 0],
        "are shared between modules": [name for name, p in named.items() if times[id(p)] > 1],
    }
    for why, names in refused.items():
        if names:
            raise ValueError(
                f"{len(names)} parameters {why}, so trainer.strategy=fsdp2 cannot shard the model: "
                f"{', '.join(names[:3])}. Use trainer.strategy=ddp, or another backbone."
            )


def sharding_units(model: TunableModel, largest: int = LARGEST) -> list[nn.Module]:
    """Modules whose parameters are gathered when they run and released after it, inner ones before outer ones.

    Those are the stages of the backbone and the decoder, or their blocks where they are large. The root takes the
    rest: the head, the stem, and whatever the backbone uses without running the module that holds it.

    Args:
        model: tried with a small picture to see which modules are run as such, as timm's networks go through some
            containers by hand.
        largest: parameters of a unit, where the network has modules of that size.
    """
    called = _called(model)
    smallest = SMALLEST * sum(parameter.numel() for parameter in model.parameters())

    def find(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
        for module in modules:
            size = sum(parameter.numel() for parameter in module.parameters())
            if size < smallest or parametrize.is_parametrized(module):
                continue
            if size > largest or module not in called:
                yield from find(module.children())
            if module in called:
                yield module

    return list(find(model.sharding_candidates()))


@torch.no_grad()
def _called(model: TunableModel) -> set[nn.Module]:
    called: set[nn.Module] = set()
    modes = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in modes]
    model.eval()
    try:
        device = next(model.parameters()).device
        picture = torch.zeros(1, model.backbone.in_channels, *PROBE, dtype=torch.uint8, device=device)
        model(model.normalize(picture))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return called


def steps_on_shares(optimizer: str, options: Mapping[str, Any]) -> bool:
    """Whether an optimizer that timm knows makes the same steps with sharded parameters as with whole ones.

    >>> steps_on_shares("adamw", {}), steps_on_shares("adamw", {"caution": True}), steps_on_shares("muon", {})
    (True, False, False)
    """
    info = get_optimizer_info(optimizer)
    cautious = {**(info.defaults or {}), **options}.get("caution", False)
    foreign = isinstance(info.opt_class, str)  # of another package, with kernels of its own
    return not (cautious or foreign or info.opt_class.__name__ in WHOLE_ONLY)


def is_sharded(module: nn.Module) -> bool:
    """Whether a parameter is spread over devices."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def load_weights(module: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load a whole state dict, such as a checkpoint's, into a module that may be sharded.

    Called by all ranks. A sharded module takes the first rank's state.
    """
    if is_sharded(module):
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=strict)
        set_model_state_dict(module, dict(state), options=options)
    else:
        module.load_state_dict(state, strict)


def full_optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The state dict with whole tensors, on the CPU. Called by all ranks."""
    state = optimizer.state_dict()
    gathered = {
        key: {name: gather_full(value).cpu() if isinstance(value, Tensor) else value for name, value in values.items()}
        for key, values in state["state"].items()
    }
    return {**state, "state": gathered}


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state dict of whole tensors, the same on all ranks, into an optimizer of sharded parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keys = [key for group in state["param_groups"] for key in group["params"]]
    owner = dict(zip(keys, parameters, strict=True))  # by position, as torch does
    shares = {
        key: {
            name: shard_like(value, owner[key]) if _matches(value, owner[key]) else value
            for name, value in values.items()
        }
        for key, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": shares})


def _matches(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def full_model(model: M) -> M:
    """The model itself, or a plain copy with all weights, on the CPU, if it is sharded. Called by all ranks."""
    if not is_sharded(model):
        return model
    state = {name: gather_full(tensor).cpu() for name, tensor in model.state_dict().items()}
    copy = model.empty_copy()
    copy.load_state_dict(state)
    return copy


def gather_full(tensor: Tensor) -> Tensor:
    """The tensor, gathered from all ranks if it is sharded. Called by all ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank has; gradients flow back into it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The tensor on the parameter's device, and sharded like it; nothing is sent, every rank cuts out its own part."""
    moved = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor) or isinstance(moved, DTensor):
        return moved
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)
