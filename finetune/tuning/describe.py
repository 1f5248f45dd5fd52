"""Descriptions of a tuning plan for the log."""

from collections.abc import Collection, Mapping

from finetune.tuning.parameter_info import ParameterInfo
from finetune.tuning.plan import Assignment, Milestone, Rule
from finetune.tuning.timing import NEVER, Timeline, phase_starts, span_epochs, trainable


def describe(assigned: Mapping[str, Assignment], infos: Mapping[str, ParameterInfo], timeline: Timeline) -> list[str]:
    """Return one line for each rule, with its parameters and when they train, and a last line for the whole model.

    Args:
        assigned: rule of each parameter, by name.
        infos: description of each parameter, by name.
        timeline: length and plateaus of the training.
    """
    lines = []
    for rule in dict.fromkeys(assignment.rule for assignment in assigned.values()):
        matched = {name: assignment for name, assignment in assigned.items() if assignment.rule is rule}
        size = sum(infos[name].size for name in matched)
        lines.append(
            f"tuning rule '{rule.match}': {size:,} parameters in {len(matched)} tensors, "
            f"{_rule_effect(rule, set(matched.values()), timeline)}"
        )
    counts = {
        start: sum(infos[name].size for name in trainable(assigned, start, timeline))
        for start in phase_starts(assigned.values(), timeline)
    }
    total = f"{sum(info.size for info in infos.values()) / 1e6:.2f}M"
    phases = [f"{count / 1e6:.2f}M from epoch {start + 1}" for start, count in counts.items() if start]
    first = f"{counts[0] / 1e6:.2f}M of {total} parameters train"
    return [*lines, ", ".join([f"{first} at first" if phases else first, *phases])]


def describe_change(before: Collection[str], after: Collection[str], infos: Mapping[str, ParameterInfo]) -> str:
    """Return what was unfrozen and frozen, such as `unfroze backbone[3]; 1.20M of 5.20M parameters train`.

    Args:
        before: names of the parameters that trained before.
        after: names of the parameters that train now.
        infos: description of each parameter, by name.
    """
    changes = []
    for verb, names in (("unfroze", set(after) - set(before)), ("froze", set(before) - set(after))):
        labels = dict.fromkeys(info.label for name, info in reversed(list(infos.items())) if name in names)
        changes += [f"{verb} {', '.join(labels)}"] if labels else []
    count = sum(infos[name].size for name in after)
    total = sum(info.size for info in infos.values())
    return "; ".join([*changes, f"{count / 1e6:.2f}M of {total / 1e6:.2f}M parameters train"])


def _rule_effect(rule: Rule, assignments: Collection[Assignment], timeline: Timeline) -> str:
    scales = sorted({assignment.lr_scale for assignment in assignments})
    rate = f"train at {' to '.join(f'{scale:.3g}' for scale in dict.fromkeys((scales[0], scales[-1])))} x lr"
    if rule.never_trains:
        return "frozen" if rule.norms != "adapt" else "frozen except for the batch-norm statistics"
    spans = [_span(index, rule, assignments, timeline) for index in range(len(rule.spans))]
    norms = {
        "train": "",
        "eval": ", batch norms keep their statistics",
        "adapt": ", batch norms always update their statistics",
    }[rule.norms]
    when = " and ".join(filter(None, spans))
    return f"{rate}{', ' if when.startswith('one') else ' ' if when else ''}{when}{norms}"


def _span(index: int, rule: Rule, assignments: Collection[Assignment], timeline: Timeline) -> str:
    """Return when a span begins and ends, in epochs counted from 1 as everywhere in the log."""
    start, stop = rule.spans[index]
    if start == "never":
        return ""
    starts = [span_epochs(assignment, timeline)[index][0] for assignment in assignments]
    first, last, end = min(starts), max(starts), span_epochs(next(iter(assignments)), timeline)[index][1]
    until = _milestone(stop, end) if stop not in (None, "never") else ""
    if rule.stagger == "plateau":
        begin = f"one layer group at each plateau, top down, from {_milestone(start, first + 1)} on"
    elif last > first:
        begin = f"one layer group after another, top down, from epoch {first + 1:.0f} to {last + 1:.0f}"
    elif first == 0:
        return f"until {until}" if until else ""
    else:
        return f"from {_milestone(start, first + 1)} {f'to {until}' if until else 'on'}"
    return f"{begin}, until {until}" if until else begin


def _milestone(milestone: Milestone, epoch: float) -> str:
    if isinstance(milestone, str):
        number = milestone.partition(":")[2]
        return f"plateau {number}" if number else "the first plateau"
    return "the end" if epoch == NEVER else f"epoch {epoch:.0f}"
