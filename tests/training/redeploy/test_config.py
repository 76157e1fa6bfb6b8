from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from training.loop.config_file import ConfigError
from training.redeploy.config import RedeployConfig, load_redeploy_config
from training.redeploy.gate import GateConfig

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("model", [RedeployConfig, GateConfig])
def test_the_page_lists_every_key(model: type[BaseModel]) -> None:
    page = (ROOT / "docs" / "redeploy.md").read_text()
    for name, field in model.model_fields.items():
        assert f"| `{name}` | {default(field)} | {field.description} |" in page


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return ""
    value: Any = field.default
    if value is None or isinstance(value, bool):
        return f"`{'null' if value is None else str(value).lower()}`"
    return "`[]`" if value == () else f"`{value}`"


@pytest.mark.parametrize("file", ["deploy/redeploy.yaml", "examples/redeploy.yaml"])
def test_the_examples_are_valid(file: str) -> None:
    config = load_redeploy_config(ROOT / file)
    assert config.services[0].grpc


def test_the_cronjobs_is_valid(tmp_path: Path) -> None:
    documents = yaml.safe_load_all(
        (ROOT / "deploy/kubernetes/components/redeploy/retrain.yaml").read_text()
    )
    (text,) = [d["data"]["redeploy.yaml"] for d in documents if d["kind"] == "ConfigMap"]
    (tmp_path / "redeploy.yaml").write_text(text)
    assert load_redeploy_config(tmp_path / "redeploy.yaml").services[0].http == "http://vgg19:3000"


def test_the_digest_changes_with_what_decides(tmp_path: Path) -> None:
    def digest(**changes: Any) -> str:
        return RedeployConfig.model_validate({"data": ["x"]} | changes).digest()

    assert digest() == digest(services=[{"http": "http://x"}], state="elsewhere")
    assert len({digest(), digest(train={"epochs": 3}), digest(gate={"min_held_out": 3})}) == 3


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load_redeploy_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize("key", ["label_column", "image_column", "split_column", "split_names"])
def test_columns_stand_beside_data(tmp_path: Path, key: str) -> None:
    value: Any = {"x": "test"} if key == "split_names" else "x"
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump({"data": ["d"], "train": {key: value}}))
    with pytest.raises(ConfigError, match=f"train.{key} is of the sources; set {key} beside data"):
        load_redeploy_config(file)
    file.write_text(yaml.safe_dump({"data": ["d"], key: value}))
    columns = load_redeploy_config(file).columns()
    assert getattr(columns, key.removesuffix("_column")) == value


def test_a_split_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("data: [d]\nsplit_names: {x: tset}\n")
    with pytest.raises(ConfigError, match="split_names.x is 'tset', it should be 'train', 'val'"):
        load_redeploy_config(tmp_path / "x.yaml")
