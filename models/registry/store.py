"""The BentoML model store: register a bundle, choose what production serves.

A bundle is registered as `vgg19:<version>`, so `bentoml models list|get|export` work on it.
Which version is production, and which were before it, is in two files beside the versions
(`models.registry.promotions`): a reader sees the old version or the new one, never neither.
"""

from __future__ import annotations

import re
import shutil
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import bentoml
from attrs import frozen
from bentoml.exceptions import BentoMLException
from bentoml.models import ModelContext

from models import bentoml_adapter
from models.bundle.bundle import Bundle, CheckManifest, inspect_bundle, open_bundle, signature_of
from models.bundle.manifest import MANIFEST_FILE, read_manifest, sha256
from models.errors import StoreError
from models.files import staged_directory, staged_file, workplace
from models.registry.promotions import History, Promotion

MODEL_NAME = "vgg19"
PRODUCTION = "production"
# What a version may be called: a plain name, as BentoML wants it as well.
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_chosen: Path | None = None
# Why an image's own model is in production, in the history of a store that was empty.
CAME_WITH_IMAGE = "came with the image"
# Label of a version that a redeploy job refused; why is in the metadata under the same name.
REJECTED = "rejected"


@frozen
class StoredModel:
    """One line of the store. `size_bytes` counts all files of the version."""

    version: str
    created_at: datetime
    labels: dict[str, str]
    metadata: dict[str, object]
    size_bytes: int

    @property
    def tag(self) -> str:
        return f"{MODEL_NAME}:{self.version}"


def store_path() -> Path:
    """Directory of the store: `$BENTOML_HOME/models`, by default `~/bentoml/models`.

    Code that lies in a Bento that carries a model has that Bento's store, unless `use` named one.
    """
    if _chosen is not None:
        return _chosen
    own = own_bento()
    return own / "models" if own else bentoml_adapter.store_directory()


def use(path: Path) -> None:
    """Work with the store in `path` from now on.

    If nothing was promoted there yet, a Bento's own model is copied there and promoted.
    """
    global _chosen  # noqa: PLW0603  # as BentoML's own choice of a store is one for the process
    _chosen = path
    own = own_bento()
    if own is None or _history().current_version() is not None:
        return
    source = _model_of_bento(own)
    target = path / MODEL_NAME / source.name
    if not target.exists():
        with staged_directory(target) as staging:
            shutil.copytree(source, staging, dirs_exist_ok=True)
    promote(source.name, CAME_WITH_IMAGE)


@cache
def own_bento() -> Path | None:
    """The Bento with a model that this code lies in, as `BENTO/src/models/registry/store.py`."""
    bento = Path(__file__).resolve().parents[3]
    inside = (bento / "bento.yaml").is_file() and (bento / "models" / MODEL_NAME).is_dir()
    return bento if inside else None


def register(bundle_path: Path, rejected: str = "") -> str:
    """Copy a bundle into the store, after checking it, and return its tag `vgg19:<version>`.

    The version is put together aside and renamed into place: a crash leaves no half of it. One that
    is there already stays as it is, so that the command of a process that was killed can be given
    again. A signature comes along, also one that the version there doesn't have yet.

    Args:
        rejected: why it is not to serve; kept as label and metadata.

    Raises:
        BundleError: the bundle's files don't match its manifest.
        StoreError: another model has that version.
    """
    bundle = open_bundle(bundle_path)
    version = version_of(bundle)
    target = stored_path(version)
    target.parent.mkdir(parents=True, exist_ok=True)
    with staging_place() as place:  # also where there is nothing to do: for what others left
        if not target.exists():
            _put(bundle, version, place, target, rejected)
    if read_manifest(target) != bundle.manifest:
        raise StoreError(
            f"{MODEL_NAME}:{version} is another model already; export the run again, to give it "
            "another version"
        )
    if signature_of(target) is None:
        _copy_signature(bundle.path, target)
    newest = _newest_accepted()
    if newest is not None:
        _point(target.parent / "latest", newest.version)  # BentoML's own name for it
    return f"{MODEL_NAME}:{version}"


def resolve(reference: str = PRODUCTION) -> str:
    """Turn `production`, `latest`, a version or a tag into a version that is in the store.

    `latest` is the newest that no redeploy job has rejected.

    Raises:
        StoreError: nothing of that name.
    """
    name, _, version = reference.rpartition(":")
    if name not in ("", MODEL_NAME):
        raise StoreError(
            f"'{reference}' names the model '{name}', this project's is '{MODEL_NAME}'"
        )
    if version == PRODUCTION:
        return _resolve_production()
    if version == "latest":
        newest = _newest_accepted()
        if newest is None:
            raise StoreError(f"no model in {store_path()}; register one with 'vgg19 register RUN'")
        return newest.version
    if not is_registered(version):
        raise StoreError(
            f"no model {MODEL_NAME}:{version} in {store_path()}; 'vgg19 models' lists what is there"
        )
    return version


def promote(reference: str, why: str = "promoted by hand", instead_of: str | None = None) -> str:
    """Make a registered model the one that production serves, and return its tag.

    Of one that is in production already nothing is changed; services that couldn't load it try
    again.

    Args:
        why: for the history.
        instead_of: the version that must be in production until then; None: any.

    Raises:
        StoreError: nothing of that name; another version than `instead_of` is in production.
        BundleError: its files don't match its manifest; production is untouched then.
    """
    version = resolve(reference)
    open_stored(version)
    _history().promote(version, why, instead_of=instead_of)
    return f"{MODEL_NAME}:{version}"


def rollback(reference: str | None = None, why: str = "rolled back by hand") -> str:
    """Make production serve what it served before, and return its tag.

    Args:
        reference: another version to return to; None: the one before.

    Raises:
        StoreError: there is nothing before the present one, or it is gone.
        BundleError: its files don't match its manifest; production is untouched then.
    """
    if reference is not None:
        return promote(reference, why)
    previous = _history().previous()
    if previous is None:
        raise StoreError(
            f"there is nothing to go back to in {store_path()}; 'vgg19 history' shows what was "
            "promoted, 'vgg19 promote TAG' chooses any version"
        )
    version = resolve(previous.version)
    open_stored(version)
    _history().promote(version, why, restores=previous.id)
    return f"{MODEL_NAME}:{version}"


def rollback_version() -> str | None:
    """The version that `rollback` returns to; None if there is none."""
    previous = _history().previous()
    return None if previous is None else previous.version


def production_version() -> str | None:
    """The version promoted last, whether or not it is still in the store; None before the first.

    In a Bento it is the one that the Bento was built with.
    """
    own = own_bento()
    if own is not None and _chosen is None:
        return _model_of_bento(own).name
    return _history().current_version()


def production_version_or_none() -> str | None:
    """As `production_version`, and None where the file that says so is damaged: for those who
    repair it, or do something else."""
    try:
        return production_version()
    except StoreError:
        return None


def production_token() -> tuple[int, int] | None:
    """Changes whenever somebody promotes, also what is in production; None before the first."""
    return _history().token()


def promotions() -> list[Promotion]:
    """The history of production, the present first."""
    return _history().promotions()


def open_stored(version: str) -> Bundle:
    """Open a registered version, its files checked against its manifest."""
    return open_bundle(stored_path(version))


def stored_path(version: str) -> Path:
    """The directory of a registered version, which is a bundle."""
    return store_path() / MODEL_NAME / version


def inspect_stored(version: str, check: CheckManifest | None = None) -> Bundle:
    """Open a registered version to run one of its graphs, see
    `models.bundle.bundle.inspect_bundle`."""
    return inspect_bundle(stored_path(version), check)


def list_models() -> list[StoredModel]:
    """All registered versions, newest first."""
    try:
        models = bentoml_adapter.model_store(store_path()).list(MODEL_NAME)
    except BentoMLException:  # BentoML raises where no version of that name exists
        return []
    entries = [
        StoredModel(
            version=str(model.tag.version),
            created_at=model.info.creation_time,
            labels=dict(model.info.labels),
            metadata=dict(model.info.metadata),
            size_bytes=model.file_size,
        )
        for model in models
    ]
    return sorted(entries, key=lambda entry: entry.created_at, reverse=True)


def staging_place() -> AbstractContextManager[Path]:
    """A place to put a version together, beside the store; see `models.files.workplace`.

    On the store's file system, but outside of it: BentoML reads every directory in there.
    """
    return workplace(store_path().parent, ".vgg19-staging-")


def _newest_accepted() -> StoredModel | None:
    accepted = [model for model in list_models() if model.labels.get("status") != REJECTED]
    return max(accepted, key=lambda model: model.created_at, default=None)


def _model_of_bento(bento: Path) -> Path:
    """The directory of the one version that a Bento carries."""
    (manifest,) = (bento / "models" / MODEL_NAME).glob(f"*/{MANIFEST_FILE}")
    return manifest.parent


def _resolve_production() -> str:
    version = production_version()
    if version is None:
        way_out = (
            "choose one with 'vgg19 promote TAG' ('vgg19 models' lists the tags)"
            if list_models()
            else "register one with 'vgg19 register RUN', then 'vgg19 promote latest'"
        )
        raise StoreError(f"no production model in {store_path()}; {way_out}")
    if not is_registered(version):
        raise StoreError(
            f"the production model {MODEL_NAME}:{version} is no longer in {store_path()}; "
            "promote another one with 'vgg19 promote TAG'"
        )
    return version


def is_registered(version: str) -> bool:
    """Whether a version of this name is in the store. No other name reaches the file system."""
    return (
        VERSION.fullmatch(version) is not None and (stored_path(version) / MANIFEST_FILE).is_file()
    )


def version_of(bundle: Bundle) -> str:
    """When and what: creation time, and six digits of the manifest's SHA-256."""
    created = datetime.fromisoformat(bundle.manifest.provenance.created_at).astimezone(UTC)
    return f"{created:%Y%m%d-%H%M%S}-{sha256(bundle.path / MANIFEST_FILE)[:6]}"


def _put(bundle: Bundle, version: str, place: Path, target: Path, rejected: str) -> None:
    _write_store_entry(bundle, version, place, rejected)
    entry = place / MODEL_NAME / version
    for name in (MANIFEST_FILE, *bundle.manifest.files):
        shutil.copy2(bundle.path / name, entry / name)
    _copy_signature(bundle.path, entry)
    entry.rename(target)


def _copy_signature(source: Path, target: Path) -> None:
    """From one bundle to another; a signature that is a link or no file is a BundleError."""
    signature = signature_of(source)
    if signature is not None:
        with staged_file(target / signature.name) as staging:
            shutil.copyfile(signature, staging)


def _write_store_entry(bundle: Bundle, version: str, store: Path, rejected: str) -> None:
    """Let BentoML write its model.yaml, with the labels and metadata its own commands show."""
    provenance = bundle.manifest.provenance
    metrics = bundle.metrics()
    with bentoml.models.create(
        f"{MODEL_NAME}:{version}",
        module=__name__,
        api_version="v1",
        signatures={},
        labels={
            "architecture": bundle.spec.architecture,
            "strategy": str(provenance.training_config.get("strategy", "unknown")),
            "data": provenance.data_fingerprint[:12],
            **({"status": REJECTED} if rejected else {}),
        },
        metadata={
            "num_classes": len(bundle.spec.labels),
            "image_size": bundle.spec.preprocessing.image_size,
            "resize": bundle.spec.preprocessing.resize,
            "held_out_split": metrics["held_out"]["split"],
            "held_out_images": metrics["held_out"]["images"],
            "held_out_accuracy": metrics["held_out"]["accuracy"],
            "git_commit": provenance.git_commit or "unknown",
            "seed": provenance.seed,
            **({REJECTED: rejected} if rejected else {}),
        },
        context=ModelContext(
            framework_name="onnxruntime", framework_versions=dict(provenance.packages)
        ),
        _model_store=bentoml_adapter.model_store(store),
    ):
        pass


def _history() -> History:
    return History(store_path() / MODEL_NAME)


def _point(file: Path, version: str) -> None:
    with staged_file(file) as staging:
        staging.write_text(version, encoding="utf-8")
