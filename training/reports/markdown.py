"""Anybody's text in Markdown."""

from __future__ import annotations

import re

from models.text import shown

# What CommonMark and GitHub's dialect take for markup within a line or a table's cell. A backslash
# before any punctuation makes it text.
_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~$!&:@]|(?<=www)\.", re.IGNORECASE)


def text(value: object) -> str:
    """Text for a line of prose or a table's cell, on one line; what can't be seen is escaped."""
    return _MARKUP.sub(r"\\\g<0>", shown(value))


def code(value: object) -> str:
    """A code span, in which nothing but its own fence is markup."""
    content = shown(value)
    longest = max(map(len, re.findall("`+", content)), default=0)
    fence = "`" * (longest + 1)
    space = " " if content[:1] in ("`", " ") or content[-1:] in ("`", " ") else ""
    return f"{fence}{space}{content}{space}{fence}"
