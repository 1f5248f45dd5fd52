"""Finished models on the Hugging Face hub: `hf://user/name`, or `hf://user/name@revision`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = r"[\w.-]+/[\w.-]+"
ADDRESS = re.compile(rf"hf:/({NAME})(?:@([\w./-]+))?")  # a path joins the two slashes
FILES = ("config.json", "model.safetensors")  # all that is downloaded
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class HubError(ValueError):
    """A model that cannot be downloaded or pushed; the message says why, and the next move."""


def is_address(path: Path) -> bool:
    """Return whether a path was typed as `hf://...`."""
    return path.as_posix().startswith("hf:/")


def check_repository(name: str) -> None:
    """Raise ValueError unless the name of a repository has the form `user/name`."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"repo={name}: expected the name of a repository on the hub, as user/name.")


def download(address: Path) -> Path:
    """Download the files of a model that the hub's cache lacks; return their folder in the cache.

    Raises:
        HubError: the address has another form, or there is no such model or no access to it.
    """
    from huggingface_hub import snapshot_download  # reads its environment when imported

    shown = address.as_posix().replace("hf:/", "hf://", 1)
    if (parts := ADDRESS.fullmatch(address.as_posix())) is None:
        raise HubError(
            f"'{shown}' names no model on the hub. Expected hf://user/name, or hf://user/name@revision with a branch, "
            f"tag or commit."
        )
    repository, revision = parts.groups()
    with _explained(f"cannot get the model {shown}", repository):
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise HubError(
            f"{shown} has no {' and no '.join(missing)}. Expected a model of this toolkit, as "
            f"`finetune export run=DIR repo={repository}` pushes one."
        )
    return folder


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Push the files of a folder to a model repository, which is created if missing; return its URL.

    Args:
        folder: all of its files are pushed.
        repository: as `user/name`.
        private: whether a new repository is private, and a public one is refused.

    Raises:
        HubError: the repository is public, or there is no access to it.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _explained(f"the files in '{folder}' were not pushed to {repository}", repository):
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.repo_info(repository).private:  # `create_repo` leaves an existing one public
            raise HubError("it exists and is public. Choose another name, make it private there, or leave out private.")
        api.upload_folder(repo_id=repository, folder_path=folder)
    return str(url)


@contextmanager
def _explained(task: str, repository: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # those of the hub's client and of its HTTP client have no common type
        raise HubError(f"{task}: {_reason(error, repository)}") from error


def _reason(error: Exception, repository: str) -> str:
    """Return what an error of the hub's client means, and the next move."""
    from huggingface_hub import constants, errors

    reasons: dict[type[Exception], str] = {  # the first that fits; a gated repository is also one that is not found
        errors.GatedRepoError: f"its owner grants access on request. Ask at {constants.ENDPOINT}/{repository}, and "
        f"{LOG_IN}.",
        errors.RepositoryNotFoundError: f"there is no such repository, or it is private. Check the name; for a private "
        f"one, {LOG_IN}.",
        errors.RevisionNotFoundError: "it has no such revision. Name a branch, tag or commit after the @.",
        errors.LocalTokenNotFoundError: f"the hub needs a token, for a push one that may write. Make one at "
        f"{constants.ENDPOINT}/settings/tokens, and {LOG_IN}.",
        errors.LocalEntryNotFoundError: f"it is not in {constants.HF_HUB_CACHE} (HF_HOME moves it), and the hub does "
        f"not answer, or HF_HUB_OFFLINE forbids to ask it. Run once with a connection; or name a folder with "
        f"{' and '.join(FILES)}.",
    }
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) and not isinstance(error, errors.RepositoryNotFoundError):
        return reasons[errors.LocalTokenNotFoundError]
    if known := [reason for kind, reason in reasons.items() if isinstance(error, kind)]:
        return known[0]
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    is_answer = status is not None or isinstance(error, ValueError)  # such as a name that the hub does not allow
    return text if is_answer else f"the hub does not answer ({text}). Check the connection, and try again."
