"""Console output of a command: the toolkit's own messages, on rank 0 only."""

import logging
import os
import sys
import warnings
from contextlib import suppress

from finetune.engine.rank_zero import is_first_process

# advice of Lightning that does not apply here
SUPPRESSED_WARNINGS = (
    ".*sync_dist=True.*",  # every rank logs values that are reduced already
    ".*does not have many workers.*",  # few workers are faster for small data
    ".*module\\(s\\) in eval mode at the start of training.*",  # frozen parts, and parts that no feature map needs
    ".*your dataloader is not resumable.*",  # our sampler is
    ".*`srun` command is available.*",  # also shown outside of a job, or in one of a single task
    ".*LeafSpec.*",  # Lightning's own use of torch
    ".*all_gather is deprecated.*",  # likewise
)


def configure_logging() -> None:
    """Show the toolkit's messages on rank 0, and only warnings of Lightning."""
    own = logging.getLogger("finetune")
    own.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    if not any(isinstance(handler, Console) for handler in own.handlers):
        own.addHandler(Console())
        own.propagate = False
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in SUPPRESSED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)


class Console(logging.Handler):
    """Handler that prints messages to the current standard output.

    If that cannot be written, for example because its disk is full, a run goes on without it. A reader that has closed
    a pipe ends the run, as for any command.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message, with its level if it is a warning or an error."""
        text = ("" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: ") + record.getMessage()
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        try:
            print(text.encode(encoding, "replace").decode(encoding), file=sys.stdout, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # until the end
            with suppress(OSError):  # it may be the same file
                print(f"warning: standard output cannot be written, and is left out: {error}", file=sys.stderr)
