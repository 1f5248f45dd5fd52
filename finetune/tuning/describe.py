"""A tuning plan in words."""

from collections.abc import Collection, Mapping

from finetune.tuning.parameter_info import ParameterInfo
from finetune.tuning.plan import Assignment, Moment, Rule
from finetune.tuning.timing import NEVER, Timeline, phase_starts, span_epochs, trainable


def describe(assigned: Mapping[str, Assignment], places: Mapping[str, ParameterInfo], timeline: Timeline) -> list[str]:
    """One line for each rule, of what it took and what becomes of it, and one for the whole.

    Args:
        assigned: parameter name -> rule.
        places: parameter name -> its place.
        timeline: whose epochs are counted.
    """
    lines = []
    for rule in dict.fromkeys(assignment.rule for assignment in assigned.values()):
        taken = {name: assignment for name, assignment in assigned.items() if assignment.rule is rule}
        size = sum(places[name].size for name in taken)
        lines.append(
            f"tuning rule '{rule.match}': {size:,} parameters in {len(taken)} tensors, "
            f"{_fate(rule, set(taken.values()), timeline)}"
        )
    counts = {
        start: sum(places[name].size for name in trainable(assigned, start, timeline))
        for start in phase_starts(assigned.values(), timeline)
    }
    total = f"{sum(place.size for place in places.values()) / 1e6:.2f}M"
    phases = [f"{count / 1e6:.2f}M from epoch {start + 1}" for start, count in counts.items() if start]
    first = f"{counts[0] / 1e6:.2f}M of {total} parameters train"
    return [*lines, ", ".join([f"{first} at first" if phases else first, *phases])]


def describe_change(before: Collection[str], after: Collection[str], places: Mapping[str, ParameterInfo]) -> str:
    """What began and what ceased to train, such as `unfrozen backbone[3]; 1.20M of 5.20M parameters train`.

    Args:
        before: names of the parameters that trained.
        after: names of those that train now.
        places: of all parameters.
    """
    said = []
    for word, names in (("unfrozen", set(after) - set(before)), ("froze", set(before) - set(after))):
        labels = dict.fromkeys(place.label for name, place in reversed(list(places.items())) if name in names)
        said += [f"{word} {', '.join(labels)}"] if labels else []
    count = sum(places[name].size for name in after)
    total = sum(place.size for place in places.values())
    return "; ".join([*said, f"{count / 1e6:.2f}M of {total / 1e6:.2f}M parameters train"])


def _fate(rule: Rule, assignments: Collection[Assignment], timeline: Timeline) -> str:
    scales = sorted({assignment.lr_scale for assignment in assignments})
    rate = f"train at {' to '.join(f'{scale:.3g}' for scale in dict.fromkeys((scales[0], scales[-1])))} x lr"
    if rule.never_trains:
        return "frozen" if rule.norms != "adapt" else "frozen but for the norms' statistics"
    spans = [_span(index, rule, assignments, timeline) for index in range(len(rule.spans))]
    norms = {"train": "", "eval": ", norms keep their statistics", "adapt": ", norms adapt throughout"}[rule.norms]
    when = " and ".join(filter(None, spans))
    return f"{rate}{', ' if when.startswith('one') else ' ' if when else ''}{when}{norms}"


def _span(index: int, rule: Rule, assignments: Collection[Assignment], timeline: Timeline) -> str:
    """When a span is, in epochs counted from 1 as everywhere in the log."""
    start, stop = rule.spans[index]
    starts = [span_epochs(assignment, timeline)[index][0] for assignment in assignments]
    first, last, end = min(starts), max(starts), span_epochs(next(iter(assignments)), timeline)[index][1]
    until = _moment(stop, end) if stop is not None else ""
    if rule.stagger == "plateau":
        begin = f"one layer group after another, top down, from {_moment(start, first + 1)} on, at each plateau"
    elif last > first:
        begin = f"one layer group after another, top down, from epoch {first + 1:.0f} to {last + 1:.0f}"
    elif first == 0:
        return f"until {until}" if until else ""
    else:
        return f"from {_moment(start, first + 1)} {f'to {until}' if until else 'on'}"
    return f"{begin}, until {until}" if until else begin


def _moment(moment: Moment, epoch: float) -> str:
    if isinstance(moment, str):
        number = moment.partition(":")[2]
        return f"plateau {number}" if number else "the first plateau"
    return "the end" if epoch == NEVER else f"epoch {epoch:.0f}"
