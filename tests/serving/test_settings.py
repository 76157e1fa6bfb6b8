from __future__ import annotations

from pathlib import Path

import pytest

from serving.settings import Settings, SettingsError, load_settings


def test_defaults_stay_on_this_machine() -> None:
    settings = load_settings()
    assert (settings.grpc_host, settings.grpc_port) == ("127.0.0.1", 3001)
    assert settings.model == "production"


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG19_MAX_BATCH_SIZE", "7")
    monkeypatch.setenv("VGG19_DEVICE", "cpu")
    settings = load_settings()
    assert (settings.max_batch_size, settings.device) == (7, "cpu")


@pytest.mark.parametrize(
    ("name", "value"),
    [("VGG19_DEVICE", "tpu"), ("VGG19_GRPC_PORT", "70000"), ("VGG19_MAX_BATCH_SIZE", "0")],
)
def test_a_wrong_value_names_variable_and_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name} is '{value}': Input should be"):
        load_settings()


def test_a_variable_of_no_setting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG19_MAX_BACTH_SIZE", "7")
    with pytest.raises(SettingsError, match="VGG19_MAX_BACTH_SIZE is no setting; there are VGG19_"):
        load_settings()


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_operations_page_lists_what_there_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `VGG19_")]
    assert rows == [
        f"| `VGG19_{name.upper()}` | `{field.default}` | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
