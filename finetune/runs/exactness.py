"""Options of Lightning's Trainer and callbacks of Lightning: with which of them a training resumes exactly."""

EXACT: tuple[str, ...] = ()
INEXACT: dict[str, str] = {}
REFUSED: dict[str, str] = {}
