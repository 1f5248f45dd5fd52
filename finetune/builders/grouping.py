"""Choose the groups of images that a split keeps together."""

from collections.abc import Sequence
from dataclasses import replace

from finetune.data import DataError, Record, Source
from finetune.data.splitting.groups import FEWEST, Grouping, guess_groups, is_plausible, match_groups

FEW = 3  # guessed groups that are worth a line; a split by them has to be asked for


def with_groups(
    records: Sequence[Record], source: Source, setting: str | None, is_made: bool
) -> tuple[list[Record], list[str]]:
    """Return the records with their groups, and a line about them if the split is made by them.

    Args:
        records: of the source.
        source: of the records.
        setting: `data.group`: None for no groups, auto, a regular expression, or a column of a table.
        is_made: whether we make the split, so that a guess has to be a sure one.

    Raises:
        DataError: the setting does not fit the data.
    """
    grouping, is_guess = _find(records, source, setting)
    notes = []
    if grouping is not None and is_made:
        text = grouping.describe()
        if is_guess and not is_plausible([group for group in grouping.groups if group], FEWEST):
            grouping = None
            notes = [f"{text}: too few to keep each in one split without being asked; data.group says what a group is"]
        else:
            notes = [f"{text}: a group stays in one split; data.group=null splits each image alone"]
    groups = grouping.groups if grouping is not None else [""] * len(records)
    return [replace(record, group=group) for record, group in zip(records, groups, strict=True)], notes


def _find(records: Sequence[Record], source: Source, setting: str | None) -> tuple[Grouping | None, bool]:
    """Return the groups, if there are any, and whether they are guessed."""
    if setting is None:
        return None, False
    if setting != "auto" and "(" in setting:
        return match_groups([record.name for record in records], setting), False
    if setting != "auto":
        cells = _column(source, setting)
        return Grouping(tuple(cells[record.name] for record in records), f"of the column {setting}"), False
    given = tuple(record.group for record in records)
    if not any(given):
        return guess_groups(records, FEW), True
    column = getattr(source, "group_column", "")
    if column in ("", "group"):
        return Grouping(given, f"of the column {column}" if column else "that the data gives"), False
    grouping = Grouping(given, f"of the column {column}")
    return grouping if is_plausible([group for group in given if group], FEW) else None, True


def _column(source: Source, name: str) -> dict[str, str]:
    """Return the cell of a column for the name of each record."""
    read = getattr(source, "column", None)
    if read is None:
        raise DataError(
            f"data.group={name}: expected auto, null, or a regular expression with one capturing group, such as "
            f"'(patient[0-9]+)_'; only tables (data=csv) have columns."
        )
    return dict(zip((record.name for record in source.records()), read(name), strict=True))
