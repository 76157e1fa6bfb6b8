"""Check the documentation: `python -m testing.docs.check`, which `make check` runs.

Links and anchors lead somewhere, named files are there, long pages have a table of contents, every
console block says whether a test runs it, every page is in the site's navigation. It needs no
MkDocs, so that a change of a page is checked in a second.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from testing.docs.markdown import Heading, Page, read_page

ROOT = Path(__file__).parents[2]
RUN = "run"
NOT_RUN = "not run: "
# Pages none of whose blocks is run as it stands, and what runs their commands instead.
NOT_RUN_PAGES = {
    "docs/training.md": "they train for minutes; tests/training runs each option on small networks",
    "docs/redeploy.md": "make demo-redeploy and test_redeploy_story.py run the job",
}
_CONTENTS_FROM = 3  # sections: with fewer, a page is seen at a glance
# Folders whose files name pages of the documentation in comments and messages.
_SOURCES = ("cli", "models", "review", "serving", "web", "training", "testing", "benchmarks",
            "deploy", "examples", "reliability", "fuzz")  # fmt: skip
_SUFFIXES = {".py", ".yaml", ".toml", ".sh", ".html", ".js", ".css", ".conf"}
_NAMED_FILE = re.compile(rf"`((?:{'|'.join(_SOURCES)}|tests)/[\w./-]+\w\.\w+)`")
_NAMED_PAGE = re.compile(r"\bdocs/[\w/-]+\.md\b")


def pages(root: Path) -> list[Path]:
    """Everything that is written for people: the files at the top, and docs/."""
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]


def problems(root: Path) -> Iterator[str]:
    """What is wrong with the documentation below `root`, each as `file:line: what`."""
    book = {path: read_page(path) for path in pages(root)}
    for page in book.values():
        found = [
            *_links(page, book),
            *_headings(page),
            *_named_files(page, root),
            *_contents(page),
            *(_console(page) if _name(page, root) not in NOT_RUN_PAGES else ()),
            *((line, "a list needs a blank line before it") for line in page.tight_lists),
        ]
        yield from (f"{_name(page, root)}:{line}: {what}" for line, what in found)
    yield from _navigation(root)
    yield from _named_pages(root)


def _name(page: Page, root: Path) -> str:
    return page.path.relative_to(root).as_posix()


def _links(page: Page, book: dict[Path, Page]) -> Iterator[tuple[int, str]]:
    for link in page.links:
        if re.match(r"\w+:", link.target):
            continue
        name, _, anchor = link.target.partition("#")
        target = (page.path.parent / unquote(name)).resolve() if name else page.path
        if not target.exists():
            yield link.line, f"{link.target} leads nowhere"
        elif anchor and (target not in book or anchor not in book[target].anchors):
            yield link.line, f"{link.target}: there is no such heading"


def _named_files(page: Page, root: Path) -> Iterator[tuple[int, str]]:
    """Sources in `...` that aren't there. Tests are also named by their path below tests/."""
    if page.path.name == "CHANGELOG.md":  # names what there was
        return
    for number, line in enumerate(page.path.read_text(encoding="utf-8").splitlines(), 1):
        for name in _NAMED_FILE.findall(line):
            if not any((root / folder / name).exists() for folder in ("", "tests")):
                yield number, f"there is no {name}"


def _headings(page: Page) -> Iterator[tuple[int, str]]:
    seen: set[str] = set()
    for heading in page.headings:
        if heading.anchor in seen and page.path.name != "CHANGELOG.md":
            yield heading.line, f"'{heading.text}' is there twice, so links can't tell them apart"
        if heading.anchor != _site_anchor(heading):
            yield heading.line, f"'{heading.text}' has other anchors on GitHub than in the site"
        seen.add(heading.anchor)


def _site_anchor(heading: Heading) -> str:
    """As Python-Markdown makes it, which MkDocs uses."""
    text = heading.text.encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def _contents(page: Page) -> Iterator[tuple[int, str]]:
    if page.path.parent.name not in ("operate", "architecture") and page.path.stem != "extending":
        return
    sections = [heading for heading in page.headings if heading.level == 2]
    linked = {link.target for link in page.links}
    if len(sections) >= _CONTENTS_FROM:
        for heading in sections:
            if f"#{heading.anchor}" not in linked:
                yield heading.line, f"'{heading.text}' is missing in the page's table of contents"


def _console(page: Page) -> Iterator[tuple[int, str]]:
    for fence in page.fences:
        if fence.language != "console":
            continue
        if not fence.commands:
            yield fence.line, "a console block without a command ($ ...)"
        if fence.marker != RUN and not fence.marker.startswith(NOT_RUN):
            yield fence.line, f"put <!-- {RUN} --> or <!-- {NOT_RUN}why --> above this block"


def _navigation(root: Path) -> Iterator[str]:
    config = yaml.safe_load((root / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = set(_files(config["nav"]))
    for path in pages(root):
        name = path.relative_to(root).as_posix().removeprefix("docs/")
        if name not in listed:
            yield f"mkdocs.yml: nav lacks {name}"
        listed.discard(name)
    yield from (f"mkdocs.yml: nav has {name}, which isn't there" for name in sorted(listed))


def _files(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, list | dict):
        for part in nav if isinstance(nav, list) else nav.values():
            yield from _files(part)


def _named_pages(root: Path) -> Iterator[str]:
    """Comments, docstrings and messages that name a page that isn't there."""
    files = [root / "Makefile", root / "pyproject.toml", root / "service.py"]
    files += [path for folder in _SOURCES for path in sorted((root / folder).rglob("*"))]
    for path in files:
        if path.is_file() and (path.suffix in _SUFFIXES or path.name == "Makefile"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                for name in _NAMED_PAGE.findall(line):
                    if not (root / name).exists():
                        yield f"{path.relative_to(root)}:{number}: there is no {name}"


def main() -> int:
    found = list(problems(ROOT))
    for line in found:
        sys.stderr.write(line + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
