"""Where the digests of keys come from: a variable, or a file that may change."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from models.errors import UserError
from serving.admission.api_keys import Keys, parse_digests


class KeysError(UserError):
    """A file of keys can't be used. Its content is no part of the message."""


@dataclass(frozen=True)
class KeySource:
    """Digests as the settings give them, or the files that hold them."""

    api: str = field(default="", repr=False)
    admin: str = field(default="", repr=False)
    api_file: Path | None = None
    admin_file: Path | None = None

    @property
    def files(self) -> list[Path]:
        return [file for file in (self.api_file, self.admin_file) if file is not None]

    def read(self) -> Keys:
        """Raises KeysError: a file can't be read, or holds something else."""
        return Keys(*self._digests())

    def read_into(self, keys: Keys) -> None:
        """Have what is there now count. Raises KeysError, and changes nothing then."""
        keys.replace(*self._digests())

    def _digests(self) -> tuple[list[str], str]:
        api = _read(self.api_file, "VGG19_API_KEYS_FILE") if self.api_file else self.api
        admin = _read(self.admin_file, "VGG19_ADMIN_KEY_FILE") if self.admin_file else self.admin
        admins = parse_digests(admin)
        if len(admins) > 1:
            raise KeysError(f"VGG19_ADMIN_KEY_FILE {self.admin_file} holds several keys")
        return parse_digests(api), "".join(admins)


def _read(file: Path, name: str) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise KeysError(f"{name} {file} can't be read: {reason}") from None
    try:
        if not parse_digests(text):  # an empty file would let everybody in
            raise ValueError("it is empty; unset the variable to require no key")
    except ValueError as error:
        raise KeysError(f"{name} {file} can't be used: {error}") from None
    return text
