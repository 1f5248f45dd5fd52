"""Errors: everything that cannot be read or used, in the words of a training."""

import numpy as np
import pytest

from finetune.data import DataError, inspect
from finetune.data.audit import DataSet
from finetune.data.audit.reading_checks import outside_labels, unequal_sizes, unreadable
from tests.data.audit.drawn import CLASSES, data_set, kinds, labels, photo


def photos(count: int) -> list[np.ndarray]:
    return [photo(seed) for seed in range(count)]


def lines_of_a_training(data: DataSet) -> list[str]:
    with pytest.raises(DataError) as error:
        inspect(data.records, len(CLASSES))
    return str(error.value).split("\n- ")[1:]


def test_all_unreadable_files_are_found_and_left_out() -> None:
    data = data_set([photo(0), None, photo(2), None, photo(4)], [labels(), labels(), None, None, labels()])
    (found,) = unreadable(data)
    assert set(found.details) == set(found.exclude) == {1, 2, 3}
    assert [found.text] == lines_of_a_training(data)
    assert found.text.endswith("The same in 3 more: 2.png, 3.png, 3.png.")
    assert found.details[1] == "cannot read 'images/1.png': it is broken. Replace the file or remove it."
    assert unreadable(data_set(photos(2))) == []


def test_a_mask_of_another_shape_is_found_and_one_at_another_scale_is_not() -> None:
    data = data_set(photos(3), [labels(), labels((64, 48)), labels((96, 128))])
    found = unequal_sizes(data)
    assert kinds(found) == {"shape": [1]}
    assert found[0].details[1] == "image 48x64, mask 64x48"
    assert [finding.text for finding in found] == lines_of_a_training(data)


def test_labels_outside_the_classes_are_found_with_their_masks() -> None:
    stray = labels()
    stray[0, 0], stray[0, 1] = 7, 9
    data = data_set(photos(3), [labels(), stray, labels()])
    found = outside_labels(data)
    assert [(finding.details, finding.exclude) for finding in found] == [({1: "label 7"}, [1]), ({1: "label 9"}, [1])]
    assert [finding.text for finding in found] == lines_of_a_training(data)
    assert outside_labels(data_set(photos(2))) == []


def test_masks_with_channels_among_others_are_found() -> None:
    channels = np.stack([labels() == k for k in range(3)]).astype(np.uint8)
    data = data_set(photos(3), [labels(), channels, labels()])
    (found,) = unequal_sizes(data)
    assert (found.kind, list(found.details)) == ("kind", [1])
    assert [found.text] == lines_of_a_training(data)
