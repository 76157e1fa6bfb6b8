"""Who may ask: API keys and the admin key.

Keys are kept as SHA-256 and compared in constant time. They are long and random (`vgg19 key`), so a
fast hash is enough.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

from serving.core.errors import Unauthenticated

_DIGEST = re.compile(r"[0-9a-f]{64}")


def new_key() -> str:
    """A key that nobody can guess."""
    return secrets.token_hex(32)


def digest_of(key: str) -> str:
    """What the configuration holds in a key's place."""
    return hashlib.sha256(key.strip().encode()).hexdigest()


def parse_digests(text: str) -> list[str]:
    """Digests with commas or line ends between; of each line, what follows a # is a comment.

    Returns:
        nothing for the empty text, else at least one.

    Raises:
        ValueError: something else is among them. It is not repeated: it may be a key.
    """
    if not text:
        return []
    lines = (line.partition("#")[0] for line in text.splitlines())
    parts = [part.strip().lower() for line in lines for part in line.split(",")]
    digests = [part for part in parts if part]
    if not digests:
        raise ValueError("it holds no digest; unset it to require no key")
    for number, digest in enumerate(digests, 1):
        if not _DIGEST.fullmatch(digest):
            raise ValueError(
                f"entry {number} of {len(digests)} is not a SHA-256 in 64 hex digits. It must be a "
                "key's digest, never the key itself: `vgg19 key` makes both, and printf %s KEY | "
                "sha256sum hashes one that you have"
            )
    return digests


class Keys:
    """Checks bearer tokens.

    Args:
        api: SHA-256 (hex) of each key; none: everybody may ask.
        admin: SHA-256 (hex) of the admin key; empty: nobody may administer.
    """

    def __init__(self, api: Sequence[str] = (), admin: str = "") -> None:
        self.replace(api, admin)

    def replace(self, api: Sequence[str], admin: str) -> None:
        """From the next request on, these count and no others."""
        self._api = [digest.lower() for digest in api]
        self._admin = admin.lower()

    @property
    def has_admin(self) -> bool:
        return bool(self._admin)

    def check(self, authorization: str | None) -> str:
        """Check the value of an `Authorization` header; the admin key counts as an API key.

        Returns:
            whose request it is: the key's digest, or "" where no keys are asked for.

        Raises:
            Unauthenticated: there are keys, and this is none of them.
        """
        if not self._api:
            return ""
        return self._match(authorization, [*self._api, *filter(None, [self._admin])])

    def check_admin(self, authorization: str | None) -> None:
        """Raise Unauthenticated unless it is the admin key."""
        self._match(authorization, list(filter(None, [self._admin])))

    def may_administer(self, authorization: str | None) -> bool:
        """Whether whoever sends this may have the admin key: they send it, or send none because
        none is asked for."""
        if not self._api:
            return self.has_admin
        try:
            self.check_admin(authorization)
        except Unauthenticated:
            return False
        return True

    def _match(self, authorization: str | None, allowed: Sequence[str]) -> str:
        scheme, _, key = (authorization or "").partition(" ")
        digest = digest_of(key)
        # All are compared, so that the time tells nothing.
        matches = [known for known in allowed if hmac.compare_digest(known, digest)]
        if scheme.lower() != "bearer" or not matches:
            raise Unauthenticated("this needs a key: send it as 'Authorization: Bearer KEY'")
        return matches[0]
