"""Loads weights into a timm model and reports every name that is missing, unexpected, or of another shape."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import timm
from torch import Tensor, nn

from finetune.io.messages import shortlist
from finetune.models.input_size import fixed_size, native_size
from finetune.models.state_dicts import State
from finetune.models.weights import WeightsError

ModelAndDilated = tuple[nn.Module, bool]
Builder = Callable[..., ModelAndDilated]
Shapes = Mapping[str, tuple[int, ...]]
NAMES_SHOWN = 5
COUNTER = "num_batches_tracked"  # of batch norms; torch loads a state dict without it
logger = logging.getLogger(__name__)


def load_state(build: Builder, name: str, state: State, source: str, options: Mapping[str, Any]) -> ModelAndDilated:
    """Return the model that `build` returns, with these weights loaded.

    The weights may have a classifier of another size or none, as segmentation uses none. Names of other toolkits are
    accepted if timm translates them.

    Args:
        build: passes its arguments on to `timm.create_model`.
        name: a timm model name.
        state: state dict of the weights.
        source: source of the weights, for messages.
        options: further arguments of `timm.create_model`, which `build` knows.

    Raises:
        WeightsError: if names are missing, unexpected, or of another shape.
    """
    sized, state = _with_classifier(build, name, state, source, options.get("num_classes"))
    given = _shapes(state)  # before timm translates the names, possibly in place
    try:
        with record_missing_keys() as missing:
            # timm is strict only if its config has the classifier size that is built
            built = build(pretrained=True, pretrained_cfg_overlay={"state_dict": state, **sized}, **sized)
    except Exception as error:  # timm's translation may raise anything for unknown names
        expected = _shapes(build(**sized)[0].state_dict())
        text = str(error).strip()
        if channels := _channels(text, expected):
            raise WeightsError(
                f"weights '{source}' are for images of {channels} channels. Set backbone.in_channels={channels}, or "
                f"take other weights."
            ) from error
        raise WeightsError(_misfit(name, source, given, expected, text) + advice(name, options)) from error
    loaded = built[0].state_dict()
    _check(name, source, given, _shapes(loaded), missing, options)
    kinds = {key: value.dtype for key, value in state.items() if key in loaded and loaded[key].is_floating_point()}
    if wrong := [f"{key} {kind}" for key, kind in kinds.items() if not kind.is_floating_point]:
        raise WeightsError(
            f"weights '{source}' hold other numbers than real ones: {shortlist(wrong, NAMES_SHOWN)}. Save them as "
            f"float32."
        )
    return built


def load_from_hub(build: Builder, name: str, options: Mapping[str, Any]) -> ModelAndDilated:
    """Return the model that `build` returns, with the weights that timm downloads.

    Raises:
        WeightsError: if parameters are left random.
        RuntimeError: if the weights do not fit, or are not available.
    """
    with record_missing_keys() as missing:
        built = build(pretrained=True)
    expected = _shapes(built[0].state_dict())
    given = {key: shape for key, shape in expected.items() if key not in missing}
    _check(name, "pretrained", given, expected, missing, options)
    return built


def _channels(error: str, expected: Shapes) -> int | None:
    """Return the channels of the images that weights are for, if timm refused their stem for that; else None."""
    found = re.search(r"Pretrained (\S+) weight shape \(\d+, (\d+),.*inconsistent with input_size\[0\]=(\d+)", error)
    built = expected.get(f"{found[1]}.weight") if found else None  # a stem may see several pixels as channels
    return int(found[2]) * int(found[3]) // built[1] if found and built else None


@contextmanager
def record_missing_keys() -> Iterator[list[str]]:
    """Collect the names that a `load_state_dict` within the context reports as missing.

    timm loads some families and all adapted stems or classifiers with `strict=False` and only logs what is missing. It
    builds and loads a model in one call, so there is no instance to register a hook on; hence `load_state_dict` of all
    modules is replaced for the duration of that call. Not thread-safe.
    """
    names: list[str] = []
    original = nn.Module.load_state_dict

    def recording(module: nn.Module, *args: Any, **options: Any) -> Any:
        result = original(module, *args, **options)
        names.extend(name for name in result.missing_keys if not name.endswith(COUNTER))
        return result

    nn.Module.load_state_dict = recording  # type: ignore[assignment,method-assign]  # see above
    try:
        yield names
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


def _with_classifier(
    build: Builder, name: str, state: State, source: str, classes: int | None
) -> tuple[dict[str, int], State]:
    """Return arguments for a model with the classifier of the weights, or with none, and the weights for it."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.classifier:
        return {}, state
    layers = [config.classifier] if isinstance(config.classifier, str) else list(config.classifier)
    in_weights = _classes(state, layers)
    count = in_weights if classes in (None, in_weights) else 0
    kept = state if count else _without_classifier(build, state, layers)
    if ignored := [key for key in state if key not in kept]:
        logger.info("weights '%s': the classifier is not loaded: %s", source, shortlist(ignored, NAMES_SHOWN))
    elif count != config.num_classes:
        text = f"a classifier of {count} classes instead of {config.num_classes}" if count else "no classifier"
        logger.info("weights '%s' have %s; segmentation uses none", source, text)
    return {"num_classes": count}, kept


def _without_classifier(build: Builder, state: State, layers: Sequence[str]) -> State:
    """Return the weights without the classifier and the layers that timm builds only with one, such as a norm."""
    prefixes = _prefixes(layers)
    if not any(key.startswith(prefixes) for key in state):
        return state
    expected = build(num_classes=0)[0].state_dict()
    return {key: value for key, value in state.items() if key in expected or not key.startswith(prefixes)}


def classifier_prefixes(name: str) -> tuple[str, ...]:
    """Return the prefixes of the names of a model's classifier and the layers that timm builds only with one."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.classifier:
        return ("attn_pool.",)
    return "attn_pool.", *_prefixes([config.classifier] if isinstance(config.classifier, str) else config.classifier)


def _prefixes(layers: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{layer.partition('.')[0]}." for layer in layers)


def _classes(state: Mapping[str, Tensor], layers: Sequence[str]) -> int:
    """Return the number of classes that all layers of the classifier agree on; 0 if one of them is missing."""
    rows = {len(state[key]) if (key := f"{layer}.weight") in state else 0 for layer in layers}
    return rows.pop() if len(rows) == 1 else 0


def _check(
    name: str, source: str, given: Shapes, expected: Shapes, missing: Sequence[str], options: Mapping[str, Any]
) -> None:
    """Raise WeightsError if parameters are still random; log the names that timm translated or ignored."""
    if needed := [key for key in missing if not key.startswith(classifier_prefixes(name))]:
        raise WeightsError(_misfit(name, source, given, expected, missing=needed) + advice(name, options))
    if unexpected := [key for key in given if key not in expected]:
        logger.info(
            "weights '%s': timm translated or ignored %d of %d names: %s",
            *(source, len(unexpected), len(given), shortlist(unexpected, NAMES_SHOWN)),
        )


def _misfit(
    name: str, source: str, given: Shapes, expected: Shapes, error: str = "", missing: Sequence[str] | None = None
) -> str:
    """Return a message with the names that are missing, unexpected or of another shape, or else with the error.

    Args:
        name: a timm model name.
        source: source of the weights.
        given: names and shapes of the weights.
        expected: names and shapes of the model.
        error: error message of torch or timm.
        missing: names that got no weights, if known; None for all names that the weights lack.
    """
    lacking = [key for key in expected if key not in given] if missing is None else missing
    # timm resamples some tensors, so only those that torch refused count as another shape
    reshaped = [key for key in given if f"size mismatch for {key}:" in error or (key in lacking and key in expected)]
    findings = {
        f"of {len(expected)} names are missing": [key for key in lacking if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "of another shape": [f"{key} {given[key]} for {expected[key]}" for key in reshaped],
    }
    lines = [f"{len(names)} {text}: {shortlist(names, NAMES_SHOWN)}" for text, names in findings.items() if names]
    return f"weights '{source}' do not fit {name}: {'; '.join(lines) or error[:600]}. "


def advice(name: str, options: Mapping[str, Any]) -> str:
    """Return the next moves for weights that do not fit."""
    rename = (
        f"et backbone.name to the model of these weights, or rename the tensors to the names of "
        f"timm.create_model('{name}').state_dict()."
    )
    built, native = fixed_size(name, options), native_size(name)
    if built is None:
        return f"S{rename}"
    return (
        f"The model is built for {built[0]}x{built[1]} pixels, and weights of another size may not fit. Set "
        f"backbone.image_size to the size of the weights (null for timm's, {native[0]}x{native[1]}). Or s{rename}"
    )


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    """Return the shapes of all tensors except the counters of batch norms."""
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith(COUNTER)}
