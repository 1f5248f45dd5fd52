"""Mistakes with which a training would not start: the messages are those of the training."""

from finetune.data.audit.findings import DataSet, Finding
from finetune.data.mistakes import by_cause, channel_problems, index_problems, reading_problems, size_text


def unreadable(data: DataSet) -> list[Finding]:
    """Find images and masks that cannot be read, and images without a mask: one finding for each cause."""
    return [
        Finding("unreadable", "error", line, texts, exclude=list(texts))
        for line, texts in by_cause([each.reading for each in data.examined]).items()
    ]


def unequal_sizes(data: DataSet) -> list[Finding]:
    """Find masks of another shape than their image, and targets of different kinds."""
    whole = {i: each.reading for i, each in enumerate(data.examined) if not each.reading.problems}
    differing = {i: reading for i, reading in whole.items() if not reading.fits}
    details = {
        i: f"image {size_text(reading.size)}, mask {size_text(reading.target_size)}" for i, reading in differing.items()
    }
    texts = reading_problems(list(differing.values()), [])
    found = [Finding("shape", "error", text, details, exclude=list(details)) for text in texts]
    indices = [reading for reading in whole.values() if reading.positives is None]
    channelwise = {i: reading for i, reading in whole.items() if reading.positives is not None}
    fitting = [reading for reading in indices if reading.fits]
    mixed = reading_problems(fitting, [reading for reading in channelwise.values() if reading.fits])
    return found + [
        Finding("kind", "error", text, dict.fromkeys(channelwise, "one channel per class")) for text in mixed
    ]


def outside_labels(data: DataSet) -> list[Finding]:
    """Find labels that no class has."""
    indices = {i: data.examined[i].reading for i in data.masks if data.examined[i].reading.positives is None}
    channelwise = {i: data.examined[i].reading for i in data.masks if data.examined[i].reading.positives is not None}
    count, ignored = len(data.classes), data.ignore_index
    texts = index_problems(list(indices.values()), count, ignored, data.raw_values, model_decides=False)
    texts += channel_problems(list(channelwise.values()), count, ignored)
    outside: dict[int, str] = {}
    for group, known in ((indices, {*range(count), ignored}), (channelwise, {0, 1, ignored})):
        for index, reading in group.items():
            labels = [label for label in reading.values.nonzero().flatten().tolist() if label not in known]
            if labels or (reading.positives is not None and len(reading.positives) != count):
                outside[index] = f"labels outside the classes: {', '.join(map(str, labels))}" if labels else "channels"
    if texts and not outside:  # black and white masks, of which white is ignored
        outside = dict.fromkeys(indices, "only one class")
    named = {text: _with_label(text, outside, data) for text in texts}
    return [Finding("labels", "error", text, details, exclude=list(details)) for text, details in named.items()]


def _with_label(text: str, outside: dict[int, str], data: DataSet) -> dict[int, str]:
    """Return the images that a message about one label is about; all for another message."""
    words = text.split()
    if words[0] not in ("label", "value") or not words[1].isdigit():
        return outside
    return {i: f"label {words[1]}" for i in outside if data.examined[i].reading.values[int(words[1])]}
