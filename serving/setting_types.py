"""Kinds of settings, and how they are read and told of: what `serving.settings` is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from serving.admission.api_keys import parse_digests
from serving.admission.proxies import parse_networks
from serving.environment import PATHS, PREFIX, URLS, is_service_link

# Keys, and what was meant to name a file or a place and may be a key, or hold one.
_MAY_BE_SECRET = frozenset({*PATHS, *URLS, "VGG19_API_KEYS", "VGG19_ADMIN_KEY"})


def _names_a_file(path: object) -> object:
    text = str(path)
    if not text.strip():
        raise ValueError("it is empty; unset it, or name a file or a folder")
    if "-----BEGIN" in text or not text.isprintable():
        raise ValueError("it is to name a file, not to hold what is in it")
    return path


def _are_digests(keys: SecretStr) -> SecretStr:
    parse_digests(keys.get_secret_value())
    return keys


def _is_one_digest(key: SecretStr) -> SecretStr:
    if len(parse_digests(key.get_secret_value())) > 1:
        raise ValueError("it holds several keys; there is one admin key")
    return key


def _are_networks(proxies: str) -> str:
    parse_networks(proxies)
    return proxies


FileName = Annotated[Path, BeforeValidator(_names_a_file)]
Digests = Annotated[SecretStr, AfterValidator(_are_digests)]
OneDigest = Annotated[SecretStr, AfterValidator(_is_one_digest)]
Proxies = Annotated[str, AfterValidator(_are_networks)]


class FromEnvironment(BaseSettings):
    """Fields that are variables of the environment. No error repeats a value by itself, see
    `explain`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Variables(settings_cls)


class _Variables(EnvSettingsSource):
    """The environment, without what Kubernetes puts there under the name of a setting."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        if isinstance(value, str) and is_service_link(PREFIX + field_name.upper(), value):
            value = None
        return value, key, is_complex


def explain(problem: ErrorDetails) -> str:
    """What is wrong with the settings, in one line; with the value, unless that may be secret."""
    reason = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return reason
    name = PREFIX + str(problem["loc"][0]).upper()
    if name in _MAY_BE_SECRET:
        return f"{name} can't be used: {reason}"
    return f"{name} is {problem['input']!r}: {reason}"
