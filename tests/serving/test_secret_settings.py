"""No value that may be secret is told: not in an error, a log, a repr, the doctor's words."""

from __future__ import annotations

import hashlib
import logging
import pickle
import traceback
from pathlib import Path

import pytest

from models.errors import UserError
from serving.admission.api_keys import Keys, parse_digests
from serving.admission.key_source import KeySource
from serving.doctor import diagnose
from serving.environment import prepare
from serving.settings import Settings, load_settings

SECRET = "Tr0ub4dor-and-3"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
_LABEL = "PRIVATE KEY"
PEM = f"-----BEGIN {_LABEL}-----\n{SECRET}\n-----END {_LABEL}-----\n"
# Every wrong kind of value that a key may be given as.
WRONG_KEYS = [
    SECRET,
    f" {SECRET} ",
    f"{DIGEST},{SECRET}",
    f"{SECRET},{DIGEST}",
    f"{DIGEST};{DIGEST}{SECRET}",
    f"{DIGEST} {SECRET}",
    f"sha256:{SECRET}",
    f'"{SECRET}"',
    f'["{SECRET}"]',
    f'{{"key": "{SECRET}"}}',
    f"Bearer {SECRET}",
    f"{SECRET}{DIGEST}"[:64],
    f"{DIGEST[:50]}{SECRET}",
    f"{SECRET}\x00",
    f"{SECRET}ß漢",
    f"{DIGEST}{SECRET}",
    PEM,
    SECRET * 1000,
]
KEY_SETTINGS = ("VGG19_API_KEYS", "VGG19_ADMIN_KEY")
FILE_SETTINGS = (
    "VGG19_STORE",
    "VGG19_SIGNATURE_KEY",
    "VGG19_API_KEYS_FILE",
    "VGG19_ADMIN_KEY_FILE",
    "VGG19_GRPC_TLS_CERT",
    "VGG19_GRPC_TLS_KEY",
    "VGG19_GRPC_TLS_CLIENT_CA",
    "VGG19_TENSORRT_CACHE",
)
WRONG_FILES = [PEM, PEM.replace("\n", " "), f"{SECRET}\n", f"{SECRET}\x07", f"\t{SECRET}\n"]


def told_by(error: BaseException) -> str:
    """All that anybody prints of an error: message, repr, traceback, whatever it came from."""
    return repr(error) + str(error) + "".join(traceback.format_exception(error))


def set_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    if "\0" in value:  # can't be in an environment
        value = value.replace("\0", "\x01")
    monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", KEY_SETTINGS)
@pytest.mark.parametrize("value", WRONG_KEYS, ids=range(len(WRONG_KEYS)))
def test_a_key_in_place_of_its_digest_is_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    set_variable(monkeypatch, name, value)
    with pytest.raises(UserError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{name} can't be used: entry ")
    assert "`vgg19 key` makes both" in str(caught.value)
    assert "sha256sum" in str(caught.value)
    said: list[str] = []
    assert not diagnose(said.append)
    everything = told_by(caught.value) + "".join(said) + caplog.text
    assert "Tr0ub4dor" not in everything
    assert DIGEST[:16] not in everything


@pytest.mark.parametrize("name", FILE_SETTINGS)
@pytest.mark.parametrize("value", WRONG_FILES, ids=range(len(WRONG_FILES)))
def test_a_key_in_place_of_its_file_is_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variable(monkeypatch, name, value)
    for _ in range(2):
        with pytest.raises(UserError, match=f"^{name} can't be used: it is to name a") as caught:
            load_settings()
        said: list[str] = []
        assert not diagnose(said.append)
        assert SECRET not in told_by(caught.value) + "".join(said)
        prepare()  # as the commands do, which makes paths of some


# Lists of words, of which the message names the wrong one.
PLAIN = {"trusted_proxies", "image_formats", "cors_origins", "drift_features"}


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - PLAIN))
def test_no_field_of_any_kind_puts_a_key_into_pydantics_words(name: str) -> None:
    """Where the settings are made of Python's own values, and by nobody who takes care."""
    words = []
    for value in (SECRET, SECRET.encode(), [SECRET], {"key": SECRET}, (SECRET,)):
        try:
            made = Settings.model_validate({name: value})
        except ValueError as error:
            words.append(told_by(error))
        else:
            words += [repr(made), str(made)] if name in ("api_keys", "admin_key") else []
    assert SECRET not in "".join(words)


def test_digests_are_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG19_API_KEYS", f"{DIGEST},{OTHER}")
    monkeypatch.setenv("VGG19_ADMIN_KEY", DIGEST)
    monkeypatch.setenv("VGG19_CAPTURE_URL", f"ftp://user:{SECRET}@host/a")
    settings = load_settings()
    source = KeySource(settings.api_keys.get_secret_value(), settings.admin_key.get_secret_value())
    for thing in (settings, source, source.read(), settings.api_keys, settings.admin_key):
        for words in (repr(thing), str(thing), f"{thing}", f"{thing!r:.9999}"):
            assert DIGEST not in words
            assert OTHER not in words
            assert SECRET not in words
    assert DIGEST not in str(settings.model_dump()) + settings.model_dump_json()
    assert pickle.loads(pickle.dumps(settings)) == settings  # Ray's workers get them


@pytest.mark.parametrize(
    "text",
    [
        f"{DIGEST},{OTHER}",
        f"{DIGEST}, {OTHER}",
        f" {DIGEST} ,\t{OTHER} ",
        f"{DIGEST},{OTHER},",
        f"{DIGEST},,{OTHER}",
        f"{DIGEST}\n{OTHER}\n",
        f"{DIGEST}\r\n{OTHER}\r\n",
        f"# whose\n{DIGEST}  # the shop's\n\n{OTHER}\n",
        f"{DIGEST.upper()},{OTHER}",
    ],
)
def test_blanks_commas_and_lines(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_digests(text) == [DIGEST, OTHER]
    monkeypatch.setenv("VGG19_API_KEYS", text)
    assert parse_digests(load_settings().api_keys.get_secret_value()) == [DIGEST, OTHER]


@pytest.mark.parametrize("text", [" ", ",", " , ,", "\n", "# nothing", "\n,#\n"])
@pytest.mark.parametrize("name", KEY_SETTINGS)
def test_nothing_but_blanks_does_not_open_the_service(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match=f"{name} can't be used: it holds no digest; unset it"):
        load_settings()


@pytest.mark.parametrize("field", ["api_file", "admin_file"])
@pytest.mark.parametrize("value", [*WRONG_KEYS, "", " ", "#"], ids=range(len(WRONG_KEYS) + 3))
def test_what_is_wrong_in_a_file_of_keys_is_not_repeated(
    field: str, value: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text(value)
    keys = Keys([DIGEST], OTHER)
    source = KeySource(api_file=file) if field == "api_file" else KeySource(admin_file=file)
    with pytest.raises(UserError, match=f"_FILE {file} can't be used: ") as caught:
        source.read_into(keys)
    assert SECRET not in told_by(caught.value)
    assert keys.check(f"Bearer {SECRET}") == DIGEST  # what was there before counts


def test_files_of_keys_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe" + SECRET.encode())
    for name in ("missing", ".", "binary"):
        with pytest.raises(UserError, match="can't be read") as caught:
            KeySource(api_file=tmp_path / name).read()
        assert SECRET not in told_by(caught.value)


def test_keys_come_from_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEY_SETTINGS:
        with monkeypatch.context() as both:
            both.setenv(name, DIGEST)
            both.setenv(f"{name}_FILE", "/a/file")
            with pytest.raises(UserError, match=f"{name} and {name}_FILE are both set"):
                load_settings()
    monkeypatch.setenv("VGG19_ADMIN_KEY", f"{DIGEST},{OTHER}")
    with pytest.raises(UserError, match="VGG19_ADMIN_KEY can't be used: it holds several keys"):
        load_settings()
