"""What a Markdown page consists of, as far as it is checked: anchors, links, code blocks."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

_PARSER = MarkdownIt("commonmark").enable("table")
_COMMENT = re.compile(r"^<!--\s*(.*?)\s*-->\s*$", re.DOTALL)


@dataclass(frozen=True)
class Heading:
    level: int
    text: str
    line: int

    @property
    def anchor(self) -> str:
        """As GitHub makes it: lower case, without punctuation, hyphens for blanks."""
        return re.sub(r"[^\w\- ]", "", self.text.lower()).replace(" ", "-")


@dataclass(frozen=True)
class Link:
    """Of a page or a picture; `target` as written."""

    target: str
    line: int


@dataclass(frozen=True)
class Fence:
    """A block between ``` lines.

    `marker` is the text of the HTML comment right above it, if there is one.
    """

    language: str
    text: str
    line: int
    marker: str

    @property
    def commands(self) -> list[str]:
        """Of a console block: what is typed behind `$ `, with the lines that belong to it.

        A command goes on while its line ends in a backslash or a quote is open.
        """
        commands: list[str] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                commands.append(line[2:])
            elif commands and _goes_on(commands[-1]):
                commands[-1] += "\n" + line
        return commands


@dataclass(frozen=True)
class Page:
    path: Path
    headings: tuple[Heading, ...]
    links: tuple[Link, ...]
    fences: tuple[Fence, ...]
    tight_lists: tuple[int, ...]
    """Lines of lists without a blank line before them: GitHub shows a list, MkDocs a paragraph."""

    @property
    def anchors(self) -> frozenset[str]:
        return frozenset(heading.anchor for heading in self.headings)


def read_page(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    tokens = _PARSER.parse(text)
    return Page(
        path,
        headings=tuple(_headings(tokens)),
        links=tuple(_links(tokens)),
        fences=tuple(_fences(tokens)),
        tight_lists=tuple(_tight_lists(tokens, text.splitlines())),
    )


def _goes_on(command: str) -> bool:
    return command.endswith("\\") or command.count("'") % 2 == 1


def _line(token: Token) -> int:
    return (token.map or [0])[0] + 1


def _headings(tokens: list[Token]) -> Iterator[Heading]:
    for token, inline in itertools.pairwise(tokens):
        if token.type == "heading_open":
            parts = [child.content for child in inline.children or []]
            yield Heading(int(token.tag[1:]), "".join(parts), _line(token))


def _links(tokens: list[Token]) -> Iterator[Link]:
    for token in tokens:
        for child in token.children or []:
            target = child.attrGet("href") or child.attrGet("src")
            if target is not None:
                yield Link(str(target), _line(token))


def _fences(tokens: list[Token]) -> Iterator[Fence]:
    before: Token | None = None
    for token in tokens:
        if token.type == "fence":
            comment = _COMMENT.match(before.content) if before is not None else None
            marker = comment[1] if comment else ""
            yield Fence(token.info, token.content, _line(token), marker)
        before = token if token.type == "html_block" else None


def _tight_lists(tokens: list[Token], lines: list[str]) -> Iterator[int]:
    for token in tokens:
        if token.type in ("bullet_list_open", "ordered_list_open") and token.level == 0:
            line = _line(token)
            if line > 1 and lines[line - 2].strip():
                yield line
