"""Puts weights into a timm model to the last name: what does not fit is counted, and nothing is left out unsaid."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import timm
from torch import Tensor, nn

from finetune.io.messages import shortlist
from finetune.models.input_size import native_size, only_size
from finetune.models.weights import State, WeightsError

Built = tuple[nn.Module, bool]
Shapes = Mapping[str, tuple[int, ...]]
SHOWN = 5  # names of each kind
COUNTER = "num_batches_tracked"  # of batch norms, which torch does without
logger = logging.getLogger(__name__)


def load(build: Callable[..., Built], name: str, state: State, source: str, options: Mapping[str, Any]) -> Built:
    """What `build` makes, with these weights in it.

    A classifier of another size, or none, will do, as segmentation uses none. So will the names of other toolkits
    that timm itself translates.

    Args:
        build: hands arguments on to `timm.create_model`.
        name: a timm model name.
        state: of the weights.
        source: where they came from, for messages.
        options: further arguments of `timm.create_model`, which `build` knows of.

    Raises:
        WeightsError: names are missing, unexpected, or of another shape.
    """
    sized, state = _with_classifier(build, name, state, source, options.get("num_classes"))
    given = _shapes(state)  # before timm translates the names, which may change the mapping itself
    try:
        with record_missing_keys() as lost:
            # strict only where timm is told that the weights have the very classifier that is built
            built = build(pretrained=True, pretrained_cfg_overlay={"state_dict": state, **sized}, **sized)
    except Exception as error:  # the translation raises whatever the names make it raise
        own = _shapes(build(**sized)[0].state_dict())
        raise WeightsError(_misfit(name, source, given, own, str(error).strip()) + advice(name, options)) from error
    _check(name, source, given, _shapes(built[0].state_dict()), lost, options)
    return built


def fetch(build: Callable[..., Built], name: str, options: Mapping[str, Any]) -> Built:
    """What `build` makes with weights that timm fetches.

    Raises:
        WeightsError: they leave parameters random.
        RuntimeError: they do not fit, or cannot be had.
    """
    with record_missing_keys() as lost:
        built = build(pretrained=True)
    own = _shapes(built[0].state_dict())
    _check(name, "pretrained", {key: shape for key, shape in own.items() if key not in lost}, own, lost, options)
    return built


@contextmanager
def record_missing_keys() -> Iterator[list[str]]:
    """Names that weights loaded meanwhile lack, as torch reports them: timm tells nobody where it is lenient."""
    names: list[str] = []
    original = nn.Module.load_state_dict

    def noting(module: nn.Module, *args: Any, **options: Any) -> Any:
        found = original(module, *args, **options)
        names.extend(name for name in found.missing_keys if not name.endswith(COUNTER))
        return found

    nn.Module.load_state_dict = noting  # type: ignore[assignment,method-assign]  # no hook knows a model before it is
    try:
        yield names
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


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
        logger.info("weights '%s': the classifier is left out: %s", source, shortlist(left_out, SHOWN))
    elif count != config.num_classes:
        said = f"a classifier of {count} classes instead of {config.num_classes}" if count else "no classifier"
        logger.info("weights '%s' have %s; segmentation uses none", source, said)
    return {"num_classes": count}, kept


def _without_classifier(build: Callable[..., Built], state: State, layers: Sequence[str]) -> State:
    """The weights without those of a classifier, and of layers that timm makes for one only, such as a norm."""
    parts = _parts(layers)
    if not any(key.startswith(parts) for key in state):
        return state
    own = build(num_classes=0)[0].state_dict()
    return {key: value for key, value in state.items() if key in own or not key.startswith(parts)}


def classifier_parts(name: str) -> tuple[str, ...]:
    """How names of a model's classifier begin, with what timm makes for it alone, such as a norm."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.classifier:
        return ("attn_pool.",)
    return "attn_pool.", *_parts([config.classifier] if isinstance(config.classifier, str) else config.classifier)


def _parts(layers: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{layer.partition('.')[0]}." for layer in layers)


def _classes(state: Mapping[str, Tensor], layers: Sequence[str]) -> int:
    """Classes that all layers of the classifier agree on; 0 where one of them is not there."""
    rows = {len(state[key]) if (key := f"{layer}.weight") in state else 0 for layer in layers}
    return rows.pop() if len(rows) == 1 else 0


def _check(name: str, source: str, given: Shapes, own: Shapes, lost: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise where parameters are still random; tell of names that timm has translated or left out."""
    if needed := [key for key in lost if not key.startswith(classifier_parts(name))]:
        raise WeightsError(_misfit(name, source, given, own, lost=needed) + advice(name, options))
    if unexpected := [key for key in given if key not in own]:
        logger.info(
            "weights '%s': timm has translated or left out %d of %d names: %s",
            *(source, len(unexpected), len(given), shortlist(unexpected, SHOWN)),
        )


def _misfit(
    name: str, source: str, given: Shapes, own: Shapes, error: str = "", lost: Sequence[str] | None = None
) -> str:
    """How many names are missing, unexpected or of another shape, and which; what timm says where none is.

    Args:
        name: a timm model name.
        source: where the weights came from.
        given: names and shapes of the weights.
        own: names and shapes of the model.
        error: of torch or timm.
        lost: names that got no weights, where it is known; None for all that the weights lack.
    """
    lacking = [key for key in own if key not in given] if lost is None else lost
    # timm resamples some, so that only those count which torch has refused
    others = [key for key in given if f"size mismatch for {key}:" in error or (key in lacking and key in own)]
    kinds = {
        f"of {len(own)} names are missing": [key for key in lacking if key not in given],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [f"{key} {given[key]} for {own[key]}" for key in others],
    }
    said = "; ".join(f"{len(names)} {kind}: {shortlist(names, SHOWN)}" for kind, names in kinds.items() if names)
    return f"weights '{source}' do not fit {name}: {said or error[:600]}. "


def advice(name: str, options: Mapping[str, Any]) -> str:
    """What to do about weights that do not fit."""
    ways = (
        f"Set backbone.name to the model that they are of, or give them the names that "
        f"timm.create_model('{name}').state_dict() has."
    )
    built, native = only_size(name, options), native_size(name)
    if built is None:
        return ways
    return (
        f"The model is built for {built[0]}x{built[1]} pixels, and weights of another size may not fit. Set "
        f"backbone.image_size to the size that they are of (null for {native[0]}x{native[1]}, that of timm's). Or "
        f"{ways[0].lower()}{ways[1:]}"
    )


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    """Of all tensors but the counters of batch norms."""
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith(COUNTER)}
