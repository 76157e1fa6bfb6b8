"""Names in reports are text, whatever they hold for those who render them."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from jinja2 import UndefinedError
from markdown_it import MarkdownIt

from models.text import shown
from testing.hostile import LABELS
from training.reports import html_page, markdown
from training.reports.plots import PLOT_STYLE, confusion, save_plot

NAMES = (*LABELS, "[/red]", "</td></table>", "http://x.y/z www.x.y a@b.c", "&#60;b&#62;", "`` ` ``")


class Text(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


class LabelPage(HTMLParser):
    """Of a page of images to label, what it shows of one."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.values: dict[str, str | None] = {}
        self.caption = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.values |= {f"{tag} {key}": value for key, value in attrs}

    def handle_data(self, data: str) -> None:
        if "figcaption" in self.tags and not self.caption:
            self.caption = data


@pytest.mark.parametrize("name", NAMES)
def test_in_html(name: str, tmp_path: Path) -> None:
    """In an element, in attributes, and in a script."""
    image = {
        "path": tmp_path / "gone.png", "stem": name, "label": name, "predicted": name,
        "probability": 0.5,
    }  # fmt: skip
    source = html_page.render("label.html", images=[image], labels=[name], exact={name: name})
    page = LabelPage(source)
    assert page.tags == {
        "html", "head", "meta", "title", "style", "body", "h1", "p", "code", "button", "span",
        "datalist", "option", "div", "figure", "img", "figcaption", "br", "input", "script",
    }  # fmt: skip
    assert page.caption == f"predicted {shown(name)} 50%"
    for place in ("option value", "input data-stem", "input value", "button data-label"):
        assert page.values[place] == shown(name)
    (line,) = (line for line in source.splitlines() if line.startswith("const exact"))
    assert json.loads(line.partition("entries(")[2].removesuffix("));")) == {name: name}


def test_a_value_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="images"):
        html_page.render("label.html")


@pytest.mark.parametrize("name", NAMES)
def test_in_markdown(name: str) -> None:
    """As CommonMark with GitHub's tables and strikethrough has it."""
    render = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render
    table = f"| class | n |\n|---|---|\n| {markdown.text(name)} | 1 |\n"
    page = Text(render(table))
    assert page.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert [cell.strip() for cell in page.cells] == ["class", "n", shown(name).strip(), "1"]
    prose = render(f"Classifies as: {markdown.text(name)}, {markdown.text(name)}.")
    plain = f"Classifies as: {shown(name)}, {shown(name)}."
    assert html.unescape(prose).strip() == f"<p>{plain}</p>"
    assert render(markdown.code(name)).count("<code>") == 1


@pytest.mark.parametrize("usetex", [False, True])
def test_in_plots(tmp_path: Path, usetex: bool) -> None:
    counts = np.eye(len(NAMES), dtype=np.int64)
    with mpl.rc_context({"text.usetex": usetex}), mpl.rc_context(PLOT_STYLE):
        figure = confusion(counts, NAMES)
        save_plot(figure, tmp_path / "plot.png")
    shown_names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [name.rstrip("…") for name in shown_names] == [
        shown(name)[: 14 if len(shown(name)) <= 14 else 13] for name in NAMES
    ]
