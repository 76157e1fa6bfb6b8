from __future__ import annotations

from pathlib import Path

import pytest

from testing.docs.check import problems

BLOCK = "```console\n$ vgg19 models\n```\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "operate").mkdir(parents=True)
    (tmp_path / "README.md").write_text("# Start\n\n[run](docs/operate/run.md#stop)\n")
    (tmp_path / "docs" / "operate" / "run.md").write_text("# Run\n\n## Stop\n")
    (tmp_path / "mkdocs.yml").write_text("nav: [README.md, {Operate: [operate/run.md]}]\n")
    for name in ("Makefile", "pyproject.toml", "service.py"):
        (tmp_path / name).write_text("")
    return tmp_path


def test_nothing_is_wrong(root: Path) -> None:
    assert list(problems(root)) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](gone.md)\n", "README.md:3: gone.md leads nowhere"),
        ("![a](gone.png)\n", "README.md:3: gone.png leads nowhere"),
        ("[a](#gone)\n", "README.md:3: #gone: there is no such heading"),
        (
            "[a](docs/operate/run.md#gone)\n",
            "README.md:3: docs/operate/run.md#gone: there is no such heading",
        ),
        ("see `cli/gone.py`\n", "README.md:3: there is no cli/gone.py"),
        ("## Start\n", "README.md:3: 'Start' is there twice, so links can't tell them apart"),
        ("## A - b\n", "README.md:3: 'A - b' has other anchors on GitHub than in the site"),
        ("words\n- list\n", "README.md:4: a list needs a blank line before it"),
        (
            BLOCK,
            "README.md:3: put <!-- run --> or <!-- not run: why --> above this block",
        ),
        (
            "<!-- not run -->\n" + BLOCK,  # without a reason
            "README.md:4: put <!-- run --> or <!-- not run: why --> above this block",
        ),
        (
            "<!-- run -->\n```console\nls\n```\n",
            "README.md:4: a console block without a command ($ ...)",
        ),
    ],
)
def test_what_is_wrong_on_a_page(root: Path, text: str, problem: str) -> None:
    (root / "README.md").write_text("# Start\n\n" + text)
    assert list(problems(root)) == [problem]


@pytest.mark.parametrize("marker", ["run", "not run: it takes hours"])
def test_marked_blocks(root: Path, marker: str) -> None:
    (root / "README.md").write_text(f"# Start\n\n<!-- {marker} -->\n{BLOCK}")
    assert list(problems(root)) == []


def test_links_that_are_not_checked(root: Path) -> None:
    (root / "README.md").write_text(
        "# Start\n\n[a](https://a.example/#b), [c](mailto:d@e.example)\n"
    )
    assert list(problems(root)) == []


def test_a_table_of_contents(root: Path) -> None:
    page = root / "docs" / "operate" / "run.md"
    page.write_text("# Run\n\n[One](#one) [Stop](#stop)\n\n## One\n\n## Stop\n\n## Three\n")
    assert list(problems(root)) == [
        "docs/operate/run.md:9: 'Three' is missing in the page's table of contents"
    ]


def test_the_navigation(root: Path) -> None:
    (root / "docs" / "new.md").write_text("# New\n")
    (root / "mkdocs.yml").write_text("nav: [README.md, operate/run.md, gone.md]\n")
    assert list(problems(root)) == [
        "mkdocs.yml: nav lacks new.md",
        "mkdocs.yml: nav has gone.md, which isn't there",
    ]


def test_a_message_that_names_a_page(root: Path) -> None:
    (root / "service.py").write_text("# see docs/operate/run.md\n# and docs/gone.md\n")
    assert list(problems(root)) == ["service.py:2: there is no docs/gone.md"]
