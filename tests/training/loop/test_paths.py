from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.loop.config import TrainConfig
from training.loop.config_file import ConfigError, load_config, read_config, write_config
from training.redeploy.config import RedeployConfig

PATHS = ("data", "output", "weights", "cache_dir", "ood_data")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory; the working directory is its sibling."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def load(**values: Any) -> TrainConfig:
    return load_config(None, {"data": "d", "output": "o"} | values)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("given", ["~/x", "x", "./x", "../x", "/srv/x", "x y/z"])
@pytest.mark.parametrize("kind", [str, Path])
def test_paths_are_those_of_here_and_of_home_and_are_recorded_absolute(
    name: str, given: str, kind: type, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant = home / "x" if given == "~/x" else tmp_path / "here" / given
    (tmp_path / "c.yaml").write_text(f"{name}: {given}\n")
    others = {other: other for other in ("data", "output") if other != name}
    for config in (load(**{name: kind(given)}), load_config(tmp_path / "c.yaml", others)):
        write_config(config.absolute(), tmp_path / "config.yaml")
        monkeypatch.chdir("/")  # whoever reads it is elsewhere
        read = read_config(tmp_path / "config.yaml")
        monkeypatch.chdir(tmp_path / "here")
        assert str(getattr(read, name)) == str(meant)
        for other in PATHS:
            value = getattr(read, other)
            assert value is None or value == "imagenet" or Path(value).is_absolute(), other


@pytest.mark.parametrize("data", ["hf:mnist", "hf:user/flowers", "hf:user/flowers@0a1b2c3"])
def test_names_of_the_hub_stay_what_they_are(data: str) -> None:
    assert str(load(data=data).absolute().data) == data
    assert str(load(data=Path(data)).absolute().data) == data


@pytest.mark.parametrize("weights", ["imagenet", "none"])
def test_named_weights_stay_what_they_are(weights: str) -> None:
    assert load(weights=weights).absolute().weights == weights


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("s3://bucket/x", "is s3://bucket/x, a URL; it must be a path on this machine"),
        ("https://h/x.pth", "is https://h/x.pth, a URL"),
        ("file:///srv/x", "is file:///srv/x, a URL"),
        ("simplecache::s3://b/x", "a URL"),
        ("~nobody-has-this-name/x", "no such home directory; write ./~nobody-has-this-name/x"),
        ("", "is empty"),
        (" ", "is empty"),
        ("a\0b", "holds a null character"),
    ],
)
def test_what_is_no_path_here_is_refused_by_name(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**{name: value})
    assert str(caught.value).startswith(f"{name} ")
    assert words in str(caught.value)


def test_the_default_output_is_named_by_a_folder_in_the_home_directory(home: Path) -> None:
    config = load_config(None, {"data": "~"})
    assert config.data == home
    assert config.output.name.startswith("home-20")


def test_paths_of_a_redeploy_job(home: Path, tmp_path: Path) -> None:
    config = RedeployConfig.model_validate(
        {
            "data": ["~/base", "more", "hf:user/flowers@0a1b2c3"],
            "capture": "~/captured",
            "state": "~/state",
            "start_from": "~/w.safetensors",
            "sign_key": "~/key.pem",
            "services": [{"http": "http://h", "grpc_ca": "~/ca.pem"}],
        }
    )
    assert config.data == (home / "base", Path("more"), Path("hf:user/flowers@0a1b2c3"))
    assert config.capture == f"{home}/captured"
    assert (config.state, config.sign_key) == (home / "state", home / "key.pem")
    assert config.start_from == f"{home}/w.safetensors"
    assert config.services[0].grpc_ca == home / "ca.pem"
    for url in ("s3://bucket/captured", "gs://b"):
        assert config.model_validate({"data": ["d"], "capture": url}).capture == url
    relative = RedeployConfig.model_validate({"data": ["d"], "capture": "captured"})
    assert relative.capture == f"{tmp_path}/here/captured"
    for name in ("pretrained", "champion"):
        assert config.model_validate({"data": ["d"], "start_from": name}).start_from == name
