from __future__ import annotations

import re
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
    [
        ("VGG19_DEVICE", "tpu"),
        ("VGG19_GRPC_PORT", "70000"),
        ("VGG19_MAX_BATCH_SIZE", "-1"),
        ("VGG19_SHUTDOWN_GRACE_S", "26"),
        ("VGG19_MAX_IMAGE_PIXELS", "300000000"),
        ("VGG19_REQUEST_TIMEOUT_MS", "700000"),
    ],
)
def test_a_wrong_value_names_variable_and_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name} is '{value}': Input should be"):
        load_settings()


def test_a_variable_of_no_setting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG19_MAX_BACTH_SIZE", "7")
    with pytest.raises(SettingsError, match="VGG19_MAX_BACTH_SIZE is not a setting; the se"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("VGG19_REQUIRE_SIGNATURE", "1"), ("VGG19_SIGNATURE_KEY", "/keys/public.pem")],
)
def test_a_required_signature_needs_a_key_and_a_key_a_use(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="VGG19_SIGNATURE_KEY must be set together"):
        load_settings()


def test_a_request_must_fit_into_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG19_MAX_QUEUE_IMAGES", "16")
    with pytest.raises(SettingsError, match=r"VGG19_MAX_QUEUE_IMAGES is 16, it must be at least"):
        load_settings()


def test_formats_are_a_choice_of_six(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().formats == ("JPEG", "PNG", "WEBP")
    monkeypatch.setenv("VGG19_IMAGE_FORMATS", "png, TIFF")
    assert load_settings().formats == ("PNG", "TIFF")
    for value, unknown in (("JPEG,JPG", "JPG"), ("EPS", "EPS"), ("", ""), ("PNG,", "")):
        monkeypatch.setenv("VGG19_IMAGE_FORMATS", value)
        words = f"^VGG19_IMAGE_FORMATS is '{value}': '{unknown}' is not a format that can be open"
        with pytest.raises(
            SettingsError, match=words + "ed; choose from JPEG, PNG, WEBP, GIF, BMP, TIFF$"
        ):
            load_settings()


def test_an_image_must_fit_into_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG19_MAX_IMAGE_BYTES", "200000000")
    with pytest.raises(SettingsError, match=r"VGG19_MAX_REQUEST_BYTES is 64000000, it must be at"):
        load_settings()
    monkeypatch.setenv("VGG19_MAX_REQUEST_BYTES", "201000000")
    assert load_settings().max_request_bytes == 201_000_000


@pytest.mark.parametrize(
    "name", ["VGG19_PORT", "VGG19_SERVICE_HOST", "VGG19_SERVICE_PORT_HTTP", "VGG19_PORT_3000_TCP"]
)
def test_what_kubernetes_injects_for_a_service_named_vgg19_is_ignored(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "tcp://127.0.0.1:3000")
    load_settings()


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_page_about_configuring_lists_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operate" / "configure.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `VGG19_")]
    assert rows == [
        f"| `VGG19_{name.upper()}` | `{field.default}` | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://app.example.org", ("https://app.example.org",)),
        ("http://localhost:5173, https://a.b", ("http://localhost:5173", "https://a.b")),
        ("http://[::1]:8080,", ("http://[::1]:8080",)),
        ("chrome-extension://abcdef", ("chrome-extension://abcdef",)),
    ],
)
def test_origins(monkeypatch: pytest.MonkeyPatch, value: str, origins: tuple[str, ...]) -> None:
    monkeypatch.setenv("VGG19_CORS_ORIGINS", value)
    assert load_settings().origins == origins


@pytest.mark.parametrize(
    "value",
    [
        "app.example.org",
        "https://app.example.org/",
        "https://app.example.org/page",
        "https://App.Example.org",
        "https://*.example.org",
        "https://user@app.example.org",
        "https://a.b https://c.d",
        "null",
        "https://",
    ],
)
def test_what_no_browser_sends_as_an_origin(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VGG19_CORS_ORIGINS", f"https://a.b,{value}")
    with pytest.raises(SettingsError, match=re.escape(f"'{value}' is not an origin: scheme")):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (f"VGG19_{name}", value)
        for name in (
            *("GRPC_KEEPALIVE_S", "GRPC_MAX_CONNECTION_AGE_S", "WATCH_INTERVAL_S", "MAX_DELAY_MS"),
            *("REQUEST_TIMEOUT_MS", "SESSION_TIMEOUT_S", "SHUTDOWN_GRACE_S", "RATE_LIMIT"),
            *("CAPTURE_THRESHOLD", "CAPTURE_RATE"),
        )
        for value in ("inf", "-inf", "nan", "Infinity", "1e999", "-1", "x", "")
    ]
    + [("VGG19_GRPC_KEEPALIVE_S", "3000000"), ("VGG19_GRPC_MAX_CONNECTION_AGE_S", "3000000")],
)
def test_times_and_rates_are_numbers_that_can_be_kept(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name} is '{value}': Input should be"):
        load_settings()


@pytest.mark.parametrize(
    "value", ["proxy", "10.0.0.0/33", "1.2.3", "*", "10.0.0.1,proxy", "::/129"]
)
def test_a_trusted_proxy_is_an_address_or_a_network(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("VGG19_TRUSTED_PROXIES", value)
    with pytest.raises(SettingsError, match="^VGG19_TRUSTED_PROXIES is .* is neither an address"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("VGG19_CAPTURE_URL", "", "so VGG19_CAPTURE_URL must be set"),
        ("VGG19_ADMIN_KEY", "", "so VGG19_ADMIN_KEY or VGG19_ADMIN_KEY_FILE must be set"),
    ],
)
def test_reviews_need_images_and_an_admin_key(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv("VGG19_REVIEW", "/reviews")
    monkeypatch.setenv("VGG19_CAPTURE_URL", "/captured")
    monkeypatch.setenv("VGG19_ADMIN_KEY", "a" * 64)
    monkeypatch.setenv("VGG19_REVIEW_HOSTS", "One.example, two.example")
    assert load_settings().review_names == {"one.example", "two.example"}
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^VGG19_REVIEW is set, {words}"):
        load_settings()
