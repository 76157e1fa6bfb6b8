"""Who may ask: API keys and the admin key.

Keys are kept as SHA-256 and compared in constant time. They are long and random (`openssl rand -hex
32`), so a fast hash is enough.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from serving.core.errors import Unauthenticated


class Keys:
    """Checks bearer tokens.

    Args:
        api: SHA-256 (hex) of each key; none: everybody may ask.
        admin: SHA-256 (hex) of the admin key; empty: nobody may administer.
    """

    def __init__(self, api: Sequence[str] = (), admin: str = "") -> None:
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

    def _match(self, authorization: str | None, allowed: Sequence[str]) -> str:
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode()).hexdigest()
        # All are compared, so that the time tells nothing.
        matches = [known for known in allowed if hmac.compare_digest(known, digest)]
        if scheme.lower() != "bearer" or not matches:
            raise Unauthenticated("this needs a key: send it as 'Authorization: Bearer KEY'")
        return matches[0]
