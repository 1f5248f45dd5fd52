"""The names of splits, and the names of folders, lists and columns that stand for them."""

import re

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {  # as people write them, in any case
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
PLACE_OF_SPLIT = "{split}"
# a split at the start of a name, before a separator or a word for images or masks, or at its end after a separator
_SPLIT_WORDS = "|".join(sorted(SPLIT_NAMES, key=len, reverse=True))
_KINDS = "im|pict|photo|mask|label|seg|annot|gt"
_IN_NAME = re.compile(
    rf"(?P<first>{_SPLIT_WORDS})(?=[^a-z]|{_KINDS})|(?<=[^a-z])(?P<last>{_SPLIT_WORDS})$", re.IGNORECASE
)


def split_of(name: str) -> str:
    """Return the split that a name stands for, or "" if it stands for none.

    >>> split_of("Training"), split_of("valid"), split_of("site 3")
    ('train', 'val', '')
    """
    return SPLIT_NAMES.get(name.strip().lower(), "")


def split_in(name: str) -> tuple[str, str]:
    """Return the split that a name starts or ends with, and the name with `{split}` in its place; "" twice if none.

    >>> split_in("Train_images"), split_in("masks-val"), split_in("testannot"), split_in("valley")
    (('train', '{split}_images'), ('val', 'masks-{split}'), ('test', '{split}annot'), ('', ''))
    """
    match = _IN_NAME.match(name) or _IN_NAME.search(name)
    if match is None or (match.lastgroup == "first" and match.start()):
        return "", ""
    return split_of(match[0]), name[: match.start()] + PLACE_OF_SPLIT + name[match.end() :]
