from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from serving.core.errors import BadRequest, Conflict, UnknownModel
from serving.core.pool import DesiredVersion, ModelPool
from serving.open_inference.repository import IndexEntry, Repository

pytestmark = pytest.mark.slow


def repository_of(
    models: ModelPool, follow: Callable[[], Awaitable[None]] | None = None, *, shared: bool = False
) -> Repository:
    async def nothing() -> None:
        pass

    return Repository(models, lambda: ["v1", "v2", "broken"], follow or nothing, shared=shared)


async def test_the_index_tells_what_is_loaded_and_what_failed(models: ModelPool) -> None:
    repository = repository_of(models)
    await models.follow(DesiredVersion("broken"))
    assert await repository.index(only_ready=False) == [
        IndexEntry("vgg19", "v1", "READY"),
        IndexEntry("vgg19", "v2", "UNAVAILABLE"),
        IndexEntry("vgg19", "broken", "UNAVAILABLE", "no model broken"),
    ]
    assert await repository.index(only_ready=True) == [IndexEntry("vgg19", "v1", "READY")]


async def test_load_and_unload_a_version(models: ModelPool) -> None:
    repository = repository_of(models)
    await repository.load("vgg19", "v2")
    assert models.versions == ["v1", "v2"]
    await repository.unload("vgg19", "v2")
    assert models.versions == ["v1"]
    with pytest.raises(Conflict, match="can't be loaded: no model broken"):
        await repository.load("vgg19", "broken")


async def test_without_a_version_what_is_promoted_is_loaded(models: ModelPool) -> None:
    wanted = ["v3"]

    async def follow() -> None:
        await models.follow(DesiredVersion(wanted[0]))

    repository = repository_of(models, follow)
    await repository.load("vgg19", "")
    assert models.current.version == "v3"
    wanted[0] = "broken"
    with pytest.raises(Conflict, match="'broken' can't be loaded: no model broken"):
        await repository.load("vgg19", "")


async def test_without_a_version_all_beside_the_current_one_are_dropped(models: ModelPool) -> None:
    repository = repository_of(models)
    for version in ("v2", "v3"):
        await repository.load("vgg19", version)
    await repository.unload("vgg19", "")
    assert models.versions == ["v1"]
    with pytest.raises(Conflict, match="only the current version, v1, is loaded"):
        await repository.unload("vgg19", "")


@pytest.mark.parametrize("version", ["../etc", "a/b", "-x", "x" * 64, "ä"])
async def test_a_version_is_a_name(models: ModelPool, version: str) -> None:
    with pytest.raises(BadRequest, match="is not a version"):
        await repository_of(models).load("vgg19", version)


async def test_another_model_and_other_workers(models: ModelPool) -> None:
    with pytest.raises(UnknownModel, match="'vgg19' is"):
        await repository_of(models).load("resnet", "v1")
    with pytest.raises(Conflict, match="VGG19_WORKERS"):
        await repository_of(models, shared=True).load("vgg19", "v2")
