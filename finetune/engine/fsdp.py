"""Models with sharded parameters (FSDP2): sharding, loading and gathering."""

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
# parameters that are gathered together, if the network has modules of that size; 32 MiB in float32
LARGEST_UNIT = 2**23
SMALLEST_UNIT = 0.01  # fraction of the model's parameters below which a module is not worth a collective of its own
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-true")  # supported by Lightning's strategy
# their steps fail on shards, except Muon's, which give other weights; Adahessian and Kron are not tested
UNSHARDED_ONLY = {"Adafactor", "Adahessian", "AdamP", "Kron", "Mars", "Muon", "NvNovoGrad", "SGDP"}


def shard(model: TunableModel, mesh: DeviceMesh) -> None:
    """Shard every parameter over the devices of a mesh, starting from rank 0's weights. Collective.

    The modules stay the same, but their parameters are replaced by new ones (`DTensor`). Parameters that the logits do
    not depend on are not sharded. Frozen and trainable parameters may be mixed, and may be frozen and unfrozen between
    steps.

    Args:
        model: sharded in place, unless it is already sharded.
        mesh: one-dimensional.

    Raises:
        ValueError: a parameter is a scalar or is shared between modules, so it cannot be sharded.
    """
    if is_sharded(model):
        return
    _check_shardable(model)
    unused = model.unused_parameters()
    ignored = {parameter for name, parameter in model.named_parameters() if name in unused}
    units = sharding_units(model)
    model.to(memory_format=torch.contiguous_format)  # sharding needs contiguous parameters
    start = model.state_dict()
    for unit in (*units, model):
        # reshard the root too, so that callbacks see shards at any time
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
    # harmless: the logits are a view, because they are cropped, and are not changed in place
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(FSDPSegmenter\) returned a view")
    model.to(mesh.device_type)  # parameters and buffers that are not sharded
    load_weights(model, start)


def _check_shardable(model: nn.Module) -> None:
    named = dict(model.named_parameters(remove_duplicate=False))
    uses = Counter(map(id, named.values()))
    problems = {
        "are scalars": [name for name, p in named.items() if p.ndim == 0],
        "are shared between modules": [name for name, p in named.items() if uses[id(p)] > 1],
    }
    for why, names in problems.items():
        if names:
            raise ValueError(
                f"{len(names)} parameters {why}, so trainer.strategy=fsdp2 cannot shard the model: "
                f"{', '.join(names[:3])}. Use trainer.strategy=ddp, or another backbone."
            )


def sharding_units(model: TunableModel, largest: int = LARGEST_UNIT) -> list[nn.Module]:
    """Return the modules whose parameters are gathered before they run and released afterwards, inner ones first.

    Units are the decoder and the stages of the backbone, or the blocks of large stages. The root module gathers all
    other parameters: the head, the stem, and parameters of modules that the backbone does not call.

    Args:
        model: run once on a dummy input, because timm networks iterate over some containers without calling them.
        largest: number of parameters above which a unit is split into its children, if they are called.
    """
    called = _called_modules(model)
    smallest = SMALLEST_UNIT * sum(parameter.numel() for parameter in model.parameters())

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
def _called_modules(model: TunableModel) -> set[nn.Module]:
    called: set[nn.Module] = set()
    modes = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in modes]
    model.eval()
    try:
        device = next(model.parameters()).device
        dummy = torch.zeros(1, model.backbone.in_channels, *PROBE, dtype=torch.uint8, device=device)
        model(model.normalize(dummy))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return called


def steps_on_shares(optimizer: str, options: Mapping[str, Any]) -> bool:
    """Return whether an optimizer of timm makes the same steps with sharded parameters as with full ones.

    >>> steps_on_shares("adamw", {}), steps_on_shares("adamw", {"caution": True}), steps_on_shares("muon", {})
    (True, False, False)
    """
    info = get_optimizer_info(optimizer)
    cautious = {**(info.defaults or {}), **options}.get("caution", False)
    foreign = isinstance(info.opt_class, str)  # from another package, with its own kernels
    return not (cautious or foreign or info.opt_class.__name__ in UNSHARDED_ONLY)


def is_sharded(module: nn.Module) -> bool:
    """Return whether a parameter of the module is sharded."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def load_weights(module: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load a state dict of full tensors into a module that may be sharded. Collective.

    A sharded module gets rank 0's state.
    """
    if is_sharded(module):
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=strict)
        set_model_state_dict(module, dict(state), options=options)
    else:
        module.load_state_dict(state, strict)


def full_optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return the state dict with full tensors, on the CPU. Collective."""
    state = optimizer.state_dict()
    gathered = {
        key: {name: gather_full(value).cpu() if isinstance(value, Tensor) else value for name, value in values.items()}
        for key, values in state["state"].items()
    }
    return {**state, "state": gathered}


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state dict of full tensors, the same on all ranks, into an optimizer of sharded parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keys = [key for group in state["param_groups"] for key in group["params"]]
    owner = dict(zip(keys, parameters, strict=True))  # by position, as torch does
    shards = {
        key: {
            name: shard_like(value, owner[key]) if _matches(value, owner[key]) else value
            for name, value in values.items()
        }
        for key, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": shards})


def _matches(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def full_model(model: M) -> M:
    """Return the model itself, or an unsharded copy on the CPU if it is sharded. Collective."""
    if not is_sharded(model):
        return model
    state = {name: gather_full(tensor).cpu() for name, tensor in model.state_dict().items()}
    copy = model.empty_copy()
    copy.load_state_dict(state)
    return copy


def gather_full(tensor: Tensor) -> Tensor:
    """Return the full tensor, gathered from all ranks if it is sharded. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor, or the tensor if it is not sharded; it is differentiable."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a full tensor on the parameter's device and sharded like it, without communication."""
    moved = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor) or isinstance(moved, DTensor):
        return moved
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)
