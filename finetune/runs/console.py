"""What is said while a command works: our own messages as they are, Lightning's hints not, and by one process only."""

import logging
import sys
import warnings

from finetune.engine.rank_zero import is_first_process

HINTS = (
    ".*sync_dist=True.*",  # every rank logs what was reduced already
    ".*does not have many workers.*",  # ours are few where that is faster
    ".*module\\(s\\) in eval mode at the start of training.*",  # frozen, and parts of the backbone that no map needs
    ".*your dataloader is not resumable.*",  # our sampler is
    ".*`srun` command is available.*",  # not for whoever trains outside of a job, or in one of a single task
    ".*LeafSpec.*",  # Lightning's own use of torch
)


def configure_logging() -> None:
    """Let the toolkit's own messages be seen, and Lightning's hints not; only the first rank speaks."""
    own = logging.getLogger("finetune")
    own.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    if not any(isinstance(handler, Console) for handler in own.handlers):
        own.addHandler(Console())
        own.propagate = False
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for hint in HINTS:
        warnings.filterwarnings("ignore", hint)


class Console(logging.Handler):
    """Writes messages to whatever standard output is at the time, as they are."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        label = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        print(label + record.getMessage(), file=sys.stdout, flush=True)
