"""All checks of an audit, in the order in which their findings are shown."""

from collections.abc import Callable

from finetune.data.audit.duplicates import exact_duplicates, near_duplicates
from finetune.data.audit.findings import SEVERITIES, DataSet, Finding
from finetune.data.audit.image_checks import (
    brightness_outliers,
    featureless_images,
    mixed_modes,
    size_outliers,
    various_sizes,
)
from finetune.data.audit.mask_checks import (
    inverted_masks,
    resized_masks,
    shifted_data,
    shifted_masks,
    specks,
    swapped_classes,
    uniform_masks,
    void_masks,
)
from finetune.data.audit.reading_checks import outside_labels, unequal_sizes, unreadable
from finetune.data.audit.split_checks import absent_classes, divided_groups, imbalance, mostly_void

CHECKS: tuple[Callable[[DataSet], list[Finding]], ...] = (
    unreadable,
    unequal_sizes,
    outside_labels,
    exact_duplicates,
    near_duplicates,
    divided_groups,
    absent_classes,
    featureless_images,
    inverted_masks,
    shifted_data,
    shifted_masks,
    void_masks,
    mostly_void,
    swapped_classes,
    uniform_masks,
    imbalance,
    specks,
    resized_masks,
    various_sizes,
    size_outliers,
    mixed_modes,
    brightness_outliers,
)


def audit_data(data: DataSet) -> list[Finding]:
    """Return what all checks find: errors first, then warnings, then notes."""
    found = [finding for check in CHECKS for finding in check(data)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
