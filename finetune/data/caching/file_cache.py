"""A store of what is known of files, kept between runs in a folder that may be deleted at any time.

Whatever is wrong with the store (no space, no permission, a damaged or locked file) only means that files are read
again. Any number of processes may use it at once.
"""

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
Verify = Literal["changed", "full", "none"]
README = """Made by finetune, to start faster when it sees the same images again. It holds nothing that cannot be worked
out from your files again: delete the folder, or any file in it, whenever no run is using it.
FINETUNE_CACHE=FOLDER puts it elsewhere.
"""
FILE = "facts-1.sqlite3"  # another number for other tables: versions of this package may share the folder
TABLE = "CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, stamp TEXT, value TEXT) WITHOUT ROWID"
AT_ONCE = 500  # keys in one query; SQLite takes at most 999 in its older versions
KEY, KEY_OF_MANY = 16, 17  # bytes of the key of a fact about the files of one image, and of many images
LONGEST_VALUE = 2**28  # bytes; ours have a few hundred, and those of many images up to 16 for each
PATIENCE = 10.0  # seconds to wait for other processes that write


def cache_folder() -> Path | None:
    """Return the folder of what is kept between runs; None if there is no home to put it into.

    It is $FINETUNE_CACHE, or else `finetune` in $XDG_CACHE_HOME or ~/.cache.
    """
    if given := os.environ.get("FINETUNE_CACHE"):
        return Path(given).absolute()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "finetune")
    return folder if folder.is_absolute() else None


def create_cache_folder(folder: Path) -> None:
    """Create the folder with a file that says what it is.

    Raises:
        OSError: it cannot be written to.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    readme = folder / "README.txt"
    if not readme.exists():
        readme.write_text(README, encoding="utf-8")


class FileCache:
    """Facts about files by key, each with the stamp of its files when they were read.

    Args:
        verify: which files are read again. `changed`: those whose size or modification time is not that of the last
            time, and new ones; `full`: all; `none`: new ones, without a look at the others.
        folder: of the store; None takes that of `cache_folder`.
    """

    def __init__(self, verify: Verify = "changed", folder: Path | None = None) -> None:
        self.verify = verify
        self.folder = cache_folder() if folder is None else folder
        self.taken = 0  # facts that made reading unnecessary

    def find(self, keys: Sequence[bytes]) -> dict[bytes, tuple[str, str]]:
        """Return key -> stamp and value of the facts that are known."""

        def query(store: sqlite3.Connection) -> dict[bytes, tuple[str, str]]:
            found = {}
            for start in range(0, len(keys), AT_ONCE):
                some = keys[start : start + AT_ONCE]
                marks = ",".join("?" * len(some))
                for key, stamp, value in store.execute(f"SELECT * FROM facts WHERE key IN ({marks})", some):
                    found[key] = (stamp, value)
            return found

        if self.folder is None or not (self.folder / FILE).is_file():
            return {}
        return self._attempt(self.folder / FILE, query) or {}

    def save(self, facts: Mapping[bytes, tuple[str, str]], forget_many: bool = False) -> None:
        """Add or replace facts: key -> stamp and value, all or none.

        Args:
            facts: those that are too long are left out.
            forget_many: whether to remove all facts about many images, which may be made of others than these.
        """

        def write(store: sqlite3.Connection) -> None:
            with store:  # one transaction
                store.execute(TABLE)
                if forget_many:
                    store.execute("DELETE FROM facts WHERE length(key) = ?", (KEY_OF_MANY,))
                rows: Iterable[tuple[bytes, str, str]] = (
                    (key, *fact) for key, fact in facts.items() if len(fact[1]) < LONGEST_VALUE // 2
                )
                store.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", rows)

        if self.folder is None or not facts:
            return
        try:
            create_cache_folder(self.folder)
        except OSError as error:
            return self._give_up(error)
        self._attempt(self.folder / FILE, write)

    def _attempt(self, path: Path, action: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return what the action does with the store; None if that fails, which ends the use of the store."""
        try:
            with closing(sqlite3.connect(path, timeout=PATIENCE)) as store:
                store.execute("PRAGMA trusted_schema=OFF")  # the file may be anybody's
                store.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
                return action(store)
        except sqlite3.OperationalError as error:  # locked, read-only, no space left
            self._give_up(error)
        except (sqlite3.Error, ValueError, TypeError) as error:  # not what this class writes
            for damaged in (path, path.with_name(f"{FILE}-journal")):
                with suppress(OSError):
                    damaged.unlink()
            self._give_up(error)
        return None

    def _give_up(self, error: Exception) -> None:
        _say(f"what is known of the files is not kept for the next run: '{self.folder}': {error}")
        self.folder = None


@cache
def _say(text: str) -> None:
    """Log a line once in this process."""
    logger.info(text)
