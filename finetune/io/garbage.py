"""When Python looks for garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Pause Python's garbage collector while many objects are created: its passes would take as long as creating them.

    Not around code that decodes images: it may leave garbage.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_freeze_count() == 0:  # makes all objects old, which quick collections do not look at
                gc.freeze()
                gc.unfreeze()
            gc.enable()
