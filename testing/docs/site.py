"""MkDocs' hook for `make docs`: the repository's own links work in the site as they do on GitHub.

MkDocs knows docs/ alone. Markdown files at the top (README.md is the start page) become pages
beside those of docs/, other files that a page links to are copied, and links are rewritten.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from testing.docs.check import ROOT, pages
from testing.docs.markdown import read_page

_TARGET = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted(_outside()):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = page.file.src_uri
    source = here if page.file.generated_by else f"docs/{here}"
    return _TARGET.sub(lambda match: _moved(match[1], source), markdown)


def _outside() -> set[Path]:
    """Files that don't lie in docs/: the pages at the top, and what pages link to."""
    outside = set()
    for path in pages(ROOT):
        page = read_page(path)
        targets = {path} | {
            (path.parent / link.target.partition("#")[0]).resolve()
            for link in page.links
            if not re.match(r"\w+:|#", link.target)
        }
        outside |= {
            target for target in targets if target.is_file() and ROOT / "docs" not in target.parents
        }
    return outside


def _moved(target: str, source: str) -> str:
    """A link of the page `source`, from where that page lies in the site.

    Args:
        target: relative, as written.
        source: the page's path in the repository.
    """
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    start = posixpath.dirname(source.removeprefix("docs/"))
    return posixpath.relpath(wanted.removeprefix("docs/"), start or ".")
