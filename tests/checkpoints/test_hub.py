"""Models on the Hugging Face hub: the hub is replaced; its cache, its errors and its reader of cards are not."""

import hashlib
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, constants, errors

import finetune
from finetune.checkpoints.hub import HubError, download, push
from finetune.checkpoints.saved_model import ModelError, load_model, save_model
from finetune.models import Segmenter

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
SHARED = "c" * 64


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return Segmenter("test_resnet.r160_in1k", "linear", ("sky", "sea"), weights="none").eval()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache of the hub, which cannot be asked."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def fill(cache: Path, model: Segmenter, revision: str = "main") -> Path:
    """Put a model into the cache as huggingface_hub does; return the snapshot, whose files are links."""
    repository = cache / "models--user--name"
    snapshot = repository / "snapshots" / COMMITS[revision]
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(COMMITS[revision])
    save_model(snapshot, model, {}, {"test/iou": 0.5})
    (repository / "blobs").mkdir(exist_ok=True)
    for file in snapshot.iterdir():
        blob = repository / "blobs" / hashlib.sha1(file.read_bytes()).hexdigest()
        file.rename(blob)
        file.symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def share(snapshot: Path) -> None:
    """Move the weights to the store for the content that repositories have in common, as for large files."""
    blob = (snapshot / "model.safetensors").resolve()
    store = snapshot.parents[2] / "blobs" / SHARED[:2]
    store.mkdir(parents=True)
    blob.rename(store / SHARED)
    blob.symlink_to(f"../../blobs/{SHARED[:2]}/{SHARED}")


def test_a_model_is_loaded_from_the_cache_by_its_address_its_revision_and_its_folder(
    cache: Path, model: Segmenter
) -> None:
    other = Segmenter.from_config({**model.config(), "classes": ["wall", "door", "window"]})
    first, second = fill(cache, model), fill(cache, other, "v1")
    share(second)
    for path in ("hf://user/name", "hf://user/name@main", first):
        predictor = finetune.load(path, device="cpu")
        assert predictor.class_names == ("sky", "sea")
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    expected = model(model.normalize(images)).argmax(1)
    assert torch.equal(predictor.predict_images(images).long(), expected)
    for path in ("hf://user/name@v1", f"hf://user/name@{COMMITS['v1']}", second):
        assert finetune.load(path, device="cpu").class_names == ("wall", "door", "window")


@pytest.mark.parametrize("target", ["../../../secret", "../../blobs/secret", "../secret"])
def test_links_of_a_snapshot_lead_to_the_hashes_of_the_cache_only(target: str, cache: Path, model: Segmenter) -> None:
    snapshot = fill(cache, model)
    secret = snapshot / target
    secret.write_text("{}")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(target)
    with pytest.raises(ModelError, match="it leads out of the folder"):
        load_model(snapshot)


def test_links_are_followed_in_the_cache_only(tmp_path: Path, cache: Path, model: Segmenter) -> None:
    snapshot = fill(cache, model)
    snapshot.parents[1].rename(tmp_path / "another")  # no name of a repository in the cache
    with pytest.raises(ModelError, match="it leads out of the folder"):
        load_model(tmp_path / "another" / "snapshots" / COMMITS["main"])


def test_no_other_files_of_a_repository_are_downloaded(
    tmp_path: Path, model: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "hub", model, {}, {})
    for name in ("pytorch_model.bin", "modeling.py", "checkpoints/config.json"):
        (tmp_path / "hub" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "hub" / name).write_text("x")

    def copy(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repository, revision) == ("user/na.me-1", "refs/pr/2")
        for file in (tmp_path / "hub").rglob("*"):
            name = file.relative_to(tmp_path / "hub").as_posix()
            if file.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                (tmp_path / "copy").mkdir(exist_ok=True)
                (tmp_path / "copy" / name).write_bytes(file.read_bytes())
        return str(tmp_path / "copy")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", copy)
    folder = download(Path("hf://user/na.me-1@refs/pr/2"))
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    (tmp_path / "hub" / "model.safetensors").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"hf://user/na\.me-1@refs/pr/2 has no model\.safetensors\. .* repo=user/na"):
        load_model(Path("hf://user/na.me-1@refs/pr/2"))


def http(kind: type[Exception], status: int) -> Exception:
    """Return an error of the hub as its client raises it."""
    return kind("a long story\nof many lines", response=SimpleNamespace(status_code=status, headers={}, request=None))  # type: ignore[call-arg]  # of the hub's errors


ERRORS = [
    (http(errors.RepositoryNotFoundError, 404), r"no such repository, or it is private\. Check the name; .*hf auth"),
    (
        http(errors.GatedRepoError, 403),
        r"access on request\. Ask at https://huggingface\.co/user/name, and log in with",
    ),
    (http(errors.RevisionNotFoundError, 404), "no such revision. Name a branch, tag or commit after the @"),
    (http(errors.HfHubHTTPError, 401), "needs a token, for a push one that may write. Make one at .*/settings/tokens"),
    (http(errors.HfHubHTTPError, 403), "needs a token, for a push one that may write"),
    (errors.LocalTokenNotFoundError("x"), "needs a token, for a push one that may write"),
    (errors.LocalEntryNotFoundError("x"), "does not answer, or HF_HUB_OFFLINE .* Run once with a connection; or name"),
    (errors.OfflineModeIsEnabled("unset HF_HUB_OFFLINE"), r"does not answer \(unset HF_HUB_OFFLINE\)"),
    (http(errors.HfHubHTTPError, 500), "name: a long story$"),
    (errors.HFValidationError("no such name"), "name: no such name$"),
    (ConnectionRefusedError(111, "refused"), r"does not answer \(.*refused\)\. Check the connection"),
]


@pytest.mark.parametrize(("error", "message"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors_of_the_hub_say_what_to_do(
    error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    with pytest.raises(HubError, match="cannot get the model hf://user/name: .*" + message.removeprefix("name: ")):
        download(Path("hf://user/name"))
    with pytest.raises(HubError, match="were not pushed to user/.*" + message):
        push(tmp_path, "user/name")


def test_a_model_that_is_not_in_the_cache_is_named_when_the_hub_cannot_be_asked(cache: Path) -> None:
    with pytest.raises(ModelError, match=rf"hf://user/name: it is not in {cache} .*HF_HUB_OFFLINE"):
        finetune.load("hf://user/name")


@pytest.mark.parametrize("address", ["hf://name", "hf://user/name/", "hf://a/b/c", "hf://user/name@", "hf://u/n@v 1"])
def test_other_addresses_are_refused_with_the_form_of_one(address: str) -> None:
    if address.endswith("/"):  # which a path drops
        address += "more"
    with pytest.raises(ModelError, match=r"names no model on the hub\. Expected hf://user/name"):
        finetune.load(address)


class Hub:
    """The hub's repositories: name -> whether it is private, and its files."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}

    def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> str:
        assert exist_ok
        self.private.setdefault(repo_id, bool(private))  # an existing one stays as it is
        return f"https://huggingface.co/{repo_id}"

    def repo_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private[repo_id])

    def upload_folder(self, repo_id: str, folder_path: Path) -> None:
        self.files[repo_id] = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    return found


@pytest.mark.parametrize("private", [False, True])
def test_an_export_is_pushed_with_a_card_that_the_hub_reads(
    private: bool, hub: Hub, model: Segmenter, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(folder / "model", model, {}, {"test/iou": 0.5})
    finetune.export("run=model", "repo=user/name", f"private={private}", "output=out")
    assert hub.private == {"user/name": private}
    assert hub.files == {"user/name": {file.name: file.read_bytes() for file in Path("out").iterdir()}}
    assert set(hub.files["user/name"]) == {"README.md", "config.json", "model.safetensors"}
    card = ModelCard.load(folder / "out" / "README.md")
    assert (card.data.license, card.data.library_name) == ("unknown", "finetune-seg")
    assert (card.data.pipeline_tag, card.data.base_model) == ("image-segmentation", None)
    assert 'finetune.load("hf://user/name")' in card.text
    assert "pushed to https://huggingface.co/user/name" in capsys.readouterr().out


def test_a_private_model_is_not_pushed_to_a_public_repository(hub: Hub, model: Segmenter, folder: Path) -> None:
    hub.private["user/name"] = False
    save_model(folder / "model", model, {}, {})
    with pytest.raises(HubError, match=r"the files in 'out' were not pushed to user/name: it exists and is public"):
        finetune.export("run=model", "repo=user/name", "private=true", "output=out")
    assert hub.files == {}
    assert Path("out/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("repo=name",), "repo=name: expected the name of a repository on the hub, as user/name"),
        (("private=true",), "private=true is for a repository on the hub"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(
    overrides: tuple[str, ...], message: str, hub: Hub, folder: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        finetune.export("run=model", "output=out", *overrides)
    assert (hub.private, list(folder.iterdir())) == ({}, [])


@pytest.mark.parametrize(("format", "library"), [("timm", "timm"), ("smp", "segmentation-models-pytorch")])
def test_cards_of_other_formats_name_the_library_that_loads_them(
    format: str, library: str, hub: Hub, folder: Path
) -> None:
    options = {"pyramid_channels": 32, "segmentation_channels": 32}
    save_model(folder / "model", Segmenter("test_resnet", "fpn", 2, weights="none", head_options=options), {}, {})
    finetune.export("run=model", f"format={format}", "repo=user/name", "output=out")
    assert ModelCard.load(folder / "out" / "README.md").data.library_name == library
    assert set(hub.files["user/name"]) == {"README.md", "config.json", "model.safetensors"}


def test_the_base_model_is_named_where_the_weights_are_of_the_hub_and_stays_so(model: Segmenter, folder: Path) -> None:
    based = Segmenter.from_config({**model.config(), "base_model": "timm/test_resnet.r160_in1k"})
    save_model(folder / "first", based, {}, {})
    save_model(folder / "second", load_model(folder / "first").model, {}, {})
    assert ModelCard.load(folder / "second" / "README.md").data.base_model == "timm/test_resnet.r160_in1k"
    based.weights_license = "dinov3-license"
    save_model(folder / "third", based, {}, {})
    data = ModelCard.load(folder / "third" / "README.md").data
    assert (data.license, data.license_name) == ("other", "dinov3-license")
