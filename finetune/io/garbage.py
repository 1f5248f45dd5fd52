"""When Python looks for garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Make many objects without a look for garbage among them, which takes as long as making them.

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
