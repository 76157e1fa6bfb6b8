from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.events.config import (
    EventsConfig,
    EventsError,
    check,
    from_environment,
    new_key,
    parse_url,
    read_keys,
)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/a/b?c=d",
        "https://hooks.example.org:8443",
        "http://127.0.0.1:8080/events",
        "http://[::1]:8080/",
        "http://localhost/events",
    ],
)
def test_https_and_this_machine_may_receive(url: str) -> None:
    assert parse_url(url, allow_http=False).geturl() == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("hooks.example.org", "https://HOST/PATH"),
        ("ftp://hooks.example.org/secret", "https://HOST/PATH"),
        ("https:///secret", "https://HOST/PATH"),
        ("https://hooks.example.org:99999/secret", "https://HOST/PATH"),
        ("https://hooks.example.org/secret with spaces", "https://HOST/PATH"),
        ("https://hooks.example.org/secret\x01", "https://HOST/PATH"),
        ("https://hooks..example.org/secret", "https://HOST/PATH"),
        (f"https://{'a' * 64}.example.org/secret", "https://HOST/PATH"),
        ("https://user:pw@hooks.example.org/secret", "a user or a password"),
        ("http://10.0.0.7/secret", "VGG19_EVENTS_ALLOW_HTTP=true"),
        ("http://127.0.0.1.example.org/secret", "VGG19_EVENTS_ALLOW_HTTP=true"),
    ],
)
def test_other_urls_are_refused_without_their_secrets(url: str, why: str) -> None:
    with pytest.raises(EventsError, match=re.escape(why)) as refused:
        parse_url(url, allow_http=False)
    assert "secret" not in str(refused.value)


def test_http_to_another_machine_is_asked_for() -> None:
    assert parse_url("http://10.0.0.7/events", allow_http=True).hostname == "10.0.0.7"


def test_the_environment(tmp_path: Path) -> None:
    given = {"VGG19_EVENTS_URL": " https://hooks.example.org/secret ", "VGG19_EVENTS_QUEUE": "/q"}
    assert from_environment({}) is None
    with pytest.raises(EventsError, match="so VGG19_EVENTS_KEY_FILE must be"):
        from_environment(given)
    config = from_environment(given | {"VGG19_EVENTS_KEY_FILE": "/keys/events"})
    assert config is not None
    assert (config.receiver, config.source) == ("https://hooks.example.org", "/vgg19")
    assert (config.queue, config.key_file) == (Path("/q"), Path("/keys/events"))
    assert "secret" not in repr(config)
    with pytest.raises(EventsError, match="VGG19_EVENTS_ALLOW_HTTP is 'perhaps'"):
        from_environment(given | {"VGG19_EVENTS_ALLOW_HTTP": "perhaps"})


def test_a_file_holds_one_key_a_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first, second = new_key(), new_key()
    file.write_text(f"# the new one\n{first}\n{second}  # until Friday\n")
    keys = read_keys(file)
    assert [len(key) for key in keys] == [32, 32]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("text", ["", "# none\n", "secret\n", "whsec_c2VjcmV0\n", "whsec_sécret"])
def test_what_is_no_key_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(EventsError, match="'vgg19 events key FILE' makes one") as refused:
        read_keys(file)
    assert "secret\n" not in str(refused.value)
    with pytest.raises(EventsError, match="can't be read: No such file"):
        read_keys(tmp_path / "missing")


def test_a_service_is_told_at_its_start_where_events_cannot_wait(tmp_path: Path) -> None:
    key = tmp_path / "events.key"
    key.write_text(new_key())
    url = parse_url("https://hooks.example.org/", allow_http=False)
    check(EventsConfig(url, key, tmp_path / "new" / "queue"))
    assert list((tmp_path / "new" / "queue").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(EventsError, match="File exists; name a directory .* VGG19_EVENTS_QUEUE"):
        check(EventsConfig(url, key, tmp_path / "file"))
    key.unlink()
    with pytest.raises(EventsError, match="can't be read"):
        check(EventsConfig(url, key, tmp_path / "queue"))
