from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from models.bundle.manifest import read_manifest, sha256
from models.bundle.writer import write_manifest
from models.imaging.preprocessing import Preprocessing
from models.registry import store
from testing.bundles import write_tiny_bundle
from testing.images import write_image_folder
from training.data.sources import DataError
from training.data.splits import SplitRule
from training.loop.config import TrainConfig
from training.loop.config_file import ConfigError, load_config
from training.redeploy.config import RedeployConfig, load_redeploy_config
from training.redeploy.contents import read_contents
from training.redeploy.ingest import ingest
from training.redeploy.init import init
from training.reporter import SilentReporter


@pytest.fixture
def flowers(tmp_path: Path, store_home: Path) -> Path:
    return write_image_folder(tmp_path / "flowers", {"red": 30, "green": 30})


def put_into_production(tmp_path: Path, **training: Any) -> None:
    """A model that was trained so."""
    bundle = write_tiny_bundle(tmp_path / "bundle")
    config = load_config(None, {"output": tmp_path / "run"} | training).resolved(blocks=5)
    recorded = config.model_dump(mode="json")
    provenance = read_manifest(bundle).provenance
    write_manifest(bundle, provenance.model_copy(update={"training_config": recorded}))
    store.promote(store.register(bundle))
    shutil.rmtree(bundle)


def test_takes_images_and_training_of_the_model_in_production(
    flowers: Path, tmp_path: Path
) -> None:
    put_into_production(
        tmp_path, data=flowers, strategy="full", epochs=3, seed=7, mixup=0.2, resize_size=240,
        val_fraction=0.1, test_fraction=0.2, label_column="species",
    )  # fmt: skip
    config = init(tmp_path / "redeploy.yaml", None)
    assert load_redeploy_config(tmp_path / "redeploy.yaml") == config
    assert config.data == (flowers,)
    assert config.train == {
        "weights": "imagenet", "image_size": 224, "resize_size": 240, "strategy": "full",
        "epochs": 3, "learning_rate": 1e-4, "mixup": 0.2, "seed": 7,
    }  # fmt: skip
    assert (config.val_fraction, config.test_fraction) == (0.1, 0.2)
    assert config.gate.min_held_out == 6  # 12 of 60 are to be expected


def test_what_the_training_left_out_is_left_out_by_its_content(
    flowers: Path, tmp_path: Path
) -> None:
    wrong = sorted((flowers / "red").iterdir())[:2]
    names = "\n".join(str(path.relative_to(flowers)) for path in wrong)
    (tmp_path / "wrong.csv").write_text(f"file\n{names}\n")
    put_into_production(tmp_path, data=flowers, exclude=tmp_path / "wrong.csv")
    config = init(tmp_path / "redeploy.yaml", None)
    assert load_redeploy_config(tmp_path / "redeploy.yaml") == config
    assert config.exclude == tmp_path / "redeploy-excluded.csv"
    excluded = read_contents(config.exclude)
    assert excluded == {sha256(path) for path in wrong}

    moved = flowers / "green" / "moved.png"  # under another name, and as another class
    moved.write_bytes(wrong[0].read_bytes())
    reporter = SilentReporter()
    rule = SplitRule(0.2, 0.2, 0)
    found = ingest(
        config.data, rule, Preprocessing(), reporter, max_bad_fraction=0, exclude=excluded
    )
    assert len(found.images.samples) == 58
    assert not {sample.sha256 for sample in found.images.samples} & excluded
    assert "3 images are left out by their content" in reporter.messages


def test_a_table_of_what_was_left_out_that_is_gone(flowers: Path, tmp_path: Path) -> None:
    put_into_production(tmp_path, data=flowers, exclude=tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"exclude .*gone\.csv can't be read"):
        init(tmp_path / "redeploy.yaml", None)
    assert not (tmp_path / "redeploy.yaml").exists()


def test_takes_the_rule_of_the_shape(flowers: Path, tmp_path: Path) -> None:
    put_into_production(tmp_path, data=flowers, resize="squash")
    train = init(tmp_path / "redeploy.yaml", None).train
    assert train["resize"] == "squash"
    config = TrainConfig.model_validate({**train, "data": flowers, "output": tmp_path / "run"})
    assert config.preprocessing() == Preprocessing(resize="squash")


def test_without_a_model_the_images_are_named(flowers: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --data"):
        init(tmp_path / "redeploy.yaml", None)
    init(tmp_path / "redeploy.yaml", flowers)
    config = load_redeploy_config(tmp_path / "redeploy.yaml")
    assert config.data == (flowers,)
    usual = RedeployConfig(data=(flowers,))
    assert (config.val_fraction, config.test_fraction) == (
        usual.val_fraction,
        usual.test_fraction,
    )
    assert config.gate.min_held_out == 4


def test_many_images_have_the_usual_gate(store_home: Path, tmp_path: Path) -> None:
    rows = "\n".join(f"{number}.jpg,{number % 3}" for number in range(5000))
    (tmp_path / "all.csv").write_text(f"path,label\n{rows}\n")
    config = init(tmp_path / "redeploy.yaml", tmp_path / "all.csv")
    assert config.gate == RedeployConfig(data=(Path("x"),)).gate


@pytest.mark.parametrize("name", ["with space", "\u00fcml\u00e4ut", "a: b", "#1", "- x", "'q'"])
def test_any_name_of_a_folder_is_read_back(flowers: Path, tmp_path: Path, name: str) -> None:
    flowers.rename(tmp_path / name)
    init(tmp_path / "redeploy.yaml", tmp_path / name)
    assert load_redeploy_config(tmp_path / "redeploy.yaml").data == (tmp_path / name,)


def test_what_is_there_is_kept(flowers: Path, tmp_path: Path) -> None:
    (tmp_path / "redeploy.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        init(tmp_path / "redeploy.yaml", flowers)
    assert (tmp_path / "redeploy.yaml").read_text() == "mine"


def test_images_that_are_not_there(store_home: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        init(tmp_path / "redeploy.yaml", tmp_path / "none")
    assert not (tmp_path / "redeploy.yaml").exists()


def test_a_model_of_a_job_has_a_configuration(flowers: Path, tmp_path: Path) -> None:
    job = tmp_path / "state" / "jobs" / "1"
    job.mkdir(parents=True)
    (job / "job.json").write_text("{}")
    put_into_production(tmp_path, data=job / "data.csv", output=job / "run")
    with pytest.raises(ConfigError, match="comes from a redeploy job"):
        init(tmp_path / "redeploy.yaml", None)
