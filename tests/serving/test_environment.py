from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import pytest

from models.paths import absolute_url
from serving.environment import (
    PATHS,
    URLS,
    is_service_link,
    misspelt,
    prepare,
)
from serving.settings import Settings, load_settings

KNOWN = {f"VGG19_{name.upper()}" for name in Settings.model_fields}
SERVICES = ("vgg19", "vgg19-grpc", "vgg19-predictor", "vgg19-http-2", "vgg19-store", "vgg19-max")
ADDRESSES = ("10.96.0.12", "fd00::1f")


def links(service: str, address: str) -> dict[str, str]:
    """What kubelet makes of a Service with two ports (pkg/kubelet/envvars)."""
    name = service.upper().replace("-", "_")
    made = {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": "3000",
        f"{name}_SERVICE_PORT_HTTP": "3000",
        f"{name}_SERVICE_PORT_GRPC": "3001",
        f"{name}_PORT": f"tcp://{address}:3000",
    }
    for port, protocol in ((3000, "tcp"), (3001, "tcp"), (53, "udp"), (9000, "sctp")):
        each = f"{name}_PORT_{port}_{protocol.upper()}"
        made |= {
            each: f"{protocol}://{address}:{port}",
            f"{each}_PROTO": protocol,
            f"{each}_PORT": str(port),
            f"{each}_ADDR": address,
        }
    return made


@pytest.mark.parametrize(("service", "address"), list(product(SERVICES, ADDRESSES)))
def test_service_links_are_ignored(
    service: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_settings()
    made = links(service, address)
    assert len(made) == 21
    for name, value in made.items():
        with monkeypatch.context() as alone:
            alone.setenv(name, value)
            assert load_settings() == plain, name
        monkeypatch.setenv(name, value)
    assert load_settings() == plain
    prepare()
    assert not set(made) & set(os.environ)


def test_where_a_link_has_the_name_of_a_setting_its_value_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collisions = {name for service in SERVICES for name in links(service, "::1")} & KNOWN
    assert collisions == {"VGG19_GRPC_PORT"}
    for value, expected in (("4001", 4001), ("tcp://10.0.0.1:3001", 3001)):
        monkeypatch.setenv("VGG19_GRPC_PORT", value)
        assert load_settings().grpc_port == expected
        prepare()
        assert ("VGG19_GRPC_PORT" in os.environ) == (value == "4001")


def one_letter_wrong() -> list[str]:
    """Of every setting: a letter left out, doubled, two of them changed places, and more at the
    end."""
    names = []
    for name in sorted(KNOWN):
        stem = name.removeprefix("VGG19_")
        for i in range(len(stem)):
            names += [stem[:i] + stem[i + 1 :], stem[:i] + stem[i] + stem[i:]]
            names.append(stem[:i] + stem[i + 1 : i + 2] + stem[i : i + 1] + stem[i + 2 :])
        names += [f"{stem}S", f"{stem}_", f"{stem}_PORT", f"X_{stem}"]
    return [f"VGG19_{name}" for name in dict.fromkeys(names) if f"VGG19_{name}" not in KNOWN]


def test_a_misspelt_setting_is_still_an_error() -> None:
    tried = one_letter_wrong()
    assert len(tried) > 1500
    for name in tried:
        for value in ("1", "/a/path", "3001", "10.0.0.1", ""):
            assert misspelt(KNOWN, {name: value}) == name


def test_no_setting_has_a_name_that_is_always_a_link() -> None:
    assert not [name for name in KNOWN if is_service_link(name, "3001")]


def test_every_path_among_the_settings_is_made_absolute() -> None:
    paths = {
        f"VGG19_{name.upper()}"
        for name, field in Settings.model_fields.items()
        if "Path" in str(field.annotation)
    }
    assert paths == {name for name in PATHS if name.startswith("VGG19_")}
    assert set(URLS) <= KNOWN


@pytest.mark.parametrize("name", [*PATHS, *URLS])
def test_relative_paths_mean_the_directory_of_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = str(Path.home())
    for given, meant in (
        ("there", f"{tmp_path}/there"),
        ("./there", f"{tmp_path}/there"),
        ("a/b c/ü", f"{tmp_path}/a/b c/ü"),
        (".", str(tmp_path)),
        ("~/there", f"{home}/there"),
        ("/elsewhere/x", "/elsewhere/x"),
    ):
        environ = {name: given}
        prepare(environ)
        assert environ == {name: meant}
        prepare(environ)  # by the command, and by the service that it starts
        assert environ == {name: meant}
    for empty in ("", " "):
        environ = {name: empty}
        prepare(environ)
        assert environ == {name: empty}


def test_urls_of_files_are_paths_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url, meant in {
        "file:kept": f"file://{tmp_path}/kept",
        "file://kept": f"file://{tmp_path}/kept",
        "file://./kept/x": f"file://{tmp_path}/kept/x",
        "file:///srv/kept": "file:///srv/kept",
        "file:/srv/kept": "file:///srv/kept",
        "local://kept": f"local://{tmp_path}/kept",
        "file://": f"file://{tmp_path}",
    }.items():
        assert absolute_url(url) == meant, url
        assert absolute_url(meant) == meant
    for url in (
        "s3://bucket/a",
        "memory://a",
        "gs://b",
        "simplecache::s3://b/a",
        "https://h/a?b=c",
    ):
        assert absolute_url(url) == url


@pytest.mark.parametrize("name", PATHS[:8])
@pytest.mark.parametrize("value", ["", " ", "\t"])
def test_an_empty_path_is_an_error(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Exception, match=f"^{name} can't be used: it is empty; unset it, or"):
        load_settings()
