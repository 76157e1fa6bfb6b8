"""Names of classes and files as text: anybody's characters, made fit for a label and for people.

A label is what the model answers with, so it must be the same wherever it is typed, and must go
into JSON and protobuf. What people are shown must stay on its line, whatever it holds.
"""

from __future__ import annotations

import io
import sys
import unicodedata

# Joiners that scripts and emoji need; other format characters are invisible, or turn text round.
_JOINERS = "\u200c\u200d"
# Controls, surrogates, format characters, line and paragraph separators.
_HIDDEN = frozenset(("Cc", "Cs", "Cf", "Zl", "Zp"))


def as_label(name: str) -> str:
    """The label that a name stands for.

    The same word composed and decomposed (é as one character, and as e with an accent: macOS writes
    file names so) is one class. Bytes of a name that aren't UTF-8, which Python holds as
    surrogates, become escapes such as \\xe9.
    """
    return unicodedata.normalize("NFC", utf8(name))


def shown(text: object) -> str:
    """Text on one line for a terminal, a page or a plot: what can't be seen becomes an escape.

    These are control characters, line breaks and ESC among them, characters that reverse the text
    around them, and bytes that are not UTF-8.
    """
    return "".join(_escaped(one) if _is_hidden(one) else one for one in utf8(str(text)))


def shown_lines(text: object) -> str:
    """As `shown`, but with its line breaks."""
    return "\n".join(map(shown, str(text).split("\n")))


def escape_unencodable() -> None:
    """Have a terminal or a file that can't take a character get its escape, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def utf8(text: str) -> str:
    """Text that can be written as UTF-8: a file name's undecodable bytes become escapes (\\xe9)."""
    if text.isascii():
        return text
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # of another origin than a file name
        content = text.encode("utf-8", "backslashreplace")
    return content.decode("utf-8", "backslashreplace")


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN and character not in _JOINERS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
