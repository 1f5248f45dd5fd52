"""Folders of any form are read as they were drawn, or refused with the settings between which to choose."""

from dataclasses import replace
from pathlib import Path

import pytest

from finetune.data.records import DataError
from tests.data.recognition.drawn_folders import (
    FOLDERS,
    NAMES,
    NUMBERS,
    SPLITS,
    STEMS,
    Drawing,
    Folder,
    differences,
    draw,
    read,
)

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

FILES = st.builds(
    Folder,
    folders=st.sampled_from(FOLDERS),
    names=st.sampled_from(NAMES),
    stem=st.sampled_from(STEMS),
    split=st.sampled_from(SPLITS),
    numbers=st.sampled_from(NUMBERS),
    coding=st.sampled_from(["gray", "rgb", "palette", "palettes", "deep", "bit", "soft", "jpeg", "npy"]),
    has_void=st.booleans(),
    legend=st.sampled_from(["", "txt", "csv"]),
    count=st.sampled_from([5, 7, 12]),
    seed=st.integers(0, 2**20),
)
QUICK = hypothesis.settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)


def consistent(folder: Folder) -> Folder:
    """Return a folder that can be drawn: a coding may have values of its own, and void is told by small numbers."""
    if folder.coding in ("rgb", "palettes"):
        folder = replace(folder, numbers=tuple(range(min(5, len(folder.numbers)))))
    if folder.coding == "bit":
        folder = replace(folder, numbers=(0, 1))
    may_have_void = folder.coding in ("gray", "palette", "deep", "npy") and folder.numbers[-1] < 64
    has_csv = folder.coding in ("rgb", "palettes") or folder.legend != "csv"
    return replace(folder, has_void=folder.has_void and may_have_void, legend=folder.legend if has_csv else "")


def problems(root: Path, drawn: Drawing, folder: Folder) -> list[str]:
    """Return what was read otherwise than it was drawn; reading may be refused if the message says what to set."""
    try:
        records, void, lines = read(root, {})
    except DataError as error:
        return [] if "data." in str(error) else [f"no setting is in: {error}"]
    found = differences(drawn, records, void, folder.is_exact)
    return [*found, *lines] if found else []


@QUICK
@hypothesis.given(FILES)
def test_folders_are_read_as_they_were_drawn_or_refused_with_what_to_set(tmp_path_factory, folder):
    root = tmp_path_factory.mktemp("drawn")
    drawn = draw(root, consistent(folder))
    assert problems(root, drawn, folder) == []


@pytest.mark.parametrize("coding", ["gray", "palette", "deep", "npy", "rgb", "palettes"])
def test_masks_that_leave_no_doubt_are_never_refused(tmp_path, coding):
    folder = consistent(Folder(coding=coding, names=NAMES[4], split="lists", has_void=True, stem=STEMS[4]))
    drawn = draw(tmp_path, folder)
    records, void, lines = read(tmp_path, {})
    assert not differences(drawn, records, void, is_exact=True), lines
