"""Paths with places for parts of names, such as `masks/{class}/{stem}`."""

import re
from collections.abc import Collection
from dataclasses import dataclass

PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class NamePattern:
    """A path below a folder, without its ending, that has a place for the stem of an image and for one other name.

    Attributes:
        pattern: such as `masks/{class}/{stem}` or `{stem}/masks/{object}`.

    Raises:
        ValueError: there are not two places, or nothing is between them.
    """

    pattern: str

    def __post_init__(self) -> None:
        places = PLACE.findall(self.pattern)
        if sorted(places) not in (["class", "stem"], ["object", "stem"]) or "}{" in self.pattern:
            raise ValueError(
                f"data.masks='{self.pattern}': expected a path with {{stem}} and one of {{class}} and {{object}}, such "
                f"as 'masks/{{class}}/{{stem}}' or '{{stem}}/masks/{{object}}'."
            )

    @property
    def other(self) -> str:
        """Name of the place that is not for the stem."""
        places: list[str] = PLACE.findall(self.pattern)
        return next(name for name in places if name != "stem")

    @property
    def folder(self) -> str:
        """Folder above both places; empty for the top."""
        return self.pattern.partition("{")[0].rpartition("/")[0]

    def match(self, path: str, stems: Collection[str]) -> tuple[str, str] | None:
        """Return the stem and the other name in a path, with the longest stem that an image has; None without one.

        >>> NamePattern("masks/{stem}_{class}").match("masks/a_b_leaf", {"a", "a_b"})
        ('a_b', 'leaf')
        """
        before, first, between, _, after = PLACE.split(self.pattern)
        if not (path.startswith(before) and path.endswith(after)):
            return None
        middle = path[len(before) : len(path) - len(after)]
        splits = [(middle[: m.start()], middle[m.end() :]) for m in re.finditer(re.escape(between), middle)]
        ordered = [split if first == "stem" else split[::-1] for split in splits]
        known = [(stem, other) for stem, other in ordered if stem in stems and other and "/" not in other]
        return max(known, key=lambda names: len(names[0]), default=None)
