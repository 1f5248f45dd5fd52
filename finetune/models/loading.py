"""Puts weights into a timm model to the last name: what does not fit is counted, and nothing is left out unsaid."""

import logging
from collections.abc import Callable, Mapping, Sequence

import timm
from torch import Tensor, nn

from finetune.models.weights import State, WeightsError

Built = tuple[nn.Module, bool]
Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 5  # names of each kind
logger = logging.getLogger(__name__)


def load(build: Callable[..., Built], name: str, state: State, source: str, classes: int | None = None) -> Built:
    """What `build` makes, with these weights in it.

    A classifier of another size, or none, will do, as segmentation uses none. So will the names of other toolkits
    that timm itself translates.

    Args:
        build: hands arguments on to `timm.create_model`.
        name: a timm model name.
        state: of the weights.
        source: where they came from, for messages.
        classes: of the classifier that is asked for; None for that of the weights.

    Raises:
        WeightsError: names are missing, unexpected, or of another shape.
    """
    sized, state = _with_classifier(build, name, state, source, classes)
    given = _shapes(state)  # before timm translates the names, which may change the mapping itself
    try:
        # strict only where timm is told that the weights have the very classifier that is built
        built = build(pretrained=True, pretrained_cfg_overlay={"state_dict": state, **sized}, **sized)
    except Exception as error:  # the translation raises whatever the names make it raise
        raise WeightsError(_misfit(name, source, given, build(**sized)[0], str(error).strip())) from error
    _check(name, source, given, built[0])
    return built


def _with_classifier(
    build: Callable[..., Built], name: str, state: State, source: str, classes: int | None
) -> tuple[dict[str, int], State]:
    """Arguments for a model with the classifier that the weights have, or with none, and the weights for it."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.classifier:
        return {}, state
    layers = [config.classifier] if isinstance(config.classifier, str) else list(config.classifier)
    found = _classes(state, layers)
    count = found if classes in (None, found) else 0
    kept = state if count else _without_classifier(build, state, layers)
    if left_out := [key for key in state if key not in kept]:
        logger.info("weights '%s': the classifier is left out: %s", source, _listed(left_out))
    elif count != config.num_classes:
        said = f"a classifier of {count} classes instead of {config.num_classes}" if count else "no classifier"
        logger.info("weights '%s' have %s; segmentation uses none", source, said)
    return {"num_classes": count}, kept


def _without_classifier(build: Callable[..., Built], state: State, layers: Sequence[str]) -> State:
    """The weights without those of a classifier, and of layers that timm makes for one only, such as a norm."""
    parts = tuple(f"{layer.partition('.')[0]}." for layer in layers)
    if not any(key.startswith(parts) for key in state):
        return state
    own = build(num_classes=0)[0].state_dict()
    return {key: value for key, value in state.items() if key in own or not key.startswith(parts)}


def _classes(state: Mapping[str, Tensor], layers: Sequence[str]) -> int:
    """Classes that all layers of the classifier agree on; 0 where one of them is not there."""
    rows = {len(state[key]) if (key := f"{layer}.weight") in state else 0 for layer in layers}
    return rows.pop() if len(rows) == 1 else 0


def _check(name: str, source: str, given: Shapes, model: nn.Module) -> None:
    """Raise where parameters are still random; tell of names that timm has translated or left out."""
    own = _shapes(model.state_dict())
    unexpected = [key for key in given if key not in own]
    if not unexpected and any(key not in given for key in own):
        raise WeightsError(_misfit(name, source, given, model))
    if unexpected:
        logger.info(
            "weights '%s': timm has translated or left out %d of %d names: %s",
            *(source, len(unexpected), len(given), _listed(unexpected)),
        )


def _misfit(name: str, source: str, given: Shapes, model: nn.Module, error: str = "") -> str:
    """How many names are missing, unexpected or of another shape, and which; what timm says where none is."""
    own = _shapes(model.state_dict())
    missing, unexpected = [key for key in own if key not in given], [key for key in given if key not in own]
    # timm resamples some, so that only those count which torch has refused
    others = [f"{key} {given[key]} for {own[key]}" for key in given if f"size mismatch for {key}:" in error]
    kinds = {f"of {len(own)} names are missing": missing, "unexpected": unexpected, "of another shape": others}
    said = "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names)
    return (
        f"weights '{source}' do not fit {name}: {said or error[:600]}. Set backbone.name to the model that they are "
        f"of, or give them the names that timm.create_model('{name}').state_dict() has."
    )


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    """Of all tensors but the counters of batch norms, which torch does without."""
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
