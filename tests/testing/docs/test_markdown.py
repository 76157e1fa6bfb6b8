from __future__ import annotations

from pathlib import Path

import pytest

from testing.docs.markdown import Page, read_page

TEXT = """\
# A page

[one](other.md#there) and ![two](picture.png)
- tight

- loose

<!-- run -->
```console
$ first 'a
b'   # a comment
what it prints
$ second \\
    more
```

## `code`, and VGG's
"""


@pytest.fixture
def page(tmp_path: Path) -> Page:
    (tmp_path / "page.md").write_text(TEXT)
    return read_page(tmp_path / "page.md")


def test_links_and_pictures(page: Page) -> None:
    assert [(link.target, link.line) for link in page.links] == [
        ("other.md#there", 3),
        ("picture.png", 3),
    ]


def test_anchors_are_githubs(page: Page) -> None:
    assert page.anchors == {"a-page", "code-and-vggs"}


def test_a_console_block_and_its_marker(page: Page) -> None:
    (fence,) = page.fences
    assert (fence.language, fence.marker, fence.line) == ("console", "run", 9)
    assert fence.commands == ["first 'a\nb'   # a comment", "second \\\n    more"]


def test_lists_that_mkdocs_would_not_show(page: Page) -> None:
    assert page.tight_lists == (4,)
