"""Which of the objects that a model finds are shown."""

from collections.abc import Sequence
from typing import Any

from finetune.instances import Objects


class ObjectOutput:
    """Objects from a confidence on.

    Args:
        class_names: of the K classes.
        min_score: confidence from which an object is counted, drawn and written, 0 to 1.

    Raises:
        ValueError: a confidence outside of this range.
    """

    def __init__(self, class_names: Sequence[str], min_score: float = 0.5) -> None:
        if isinstance(min_score, bool) or not isinstance(min_score, int | float) or not 0 <= min_score <= 1:
            raise ValueError(f"min_score={min_score}: expected a number from 0 to 1.")
        self.class_names = tuple(class_names)
        self.min_score = float(min_score)

    def options(self) -> dict[str, Any]:
        """Return the confidence."""
        return {"min_score": self.min_score}

    def shown(self, objects: Objects) -> Objects:
        """Return the objects of this confidence or more, on the CPU."""
        return objects[objects.scores >= self.min_score].to("cpu")
