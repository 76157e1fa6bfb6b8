"""Names in reports are text, whatever they hold for those who render them."""

from __future__ import annotations

import html
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
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


@pytest.mark.parametrize("name", NAMES)
def test_in_html(name: str) -> None:
    page = Text(html_page.table(("class",), [(name,)]) + html_page.tile(name, name))
    assert page.tags == {"table", "tr", "th", "td", "div", "b", "span"}
    assert page.cells[1].startswith(shown(name))


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
