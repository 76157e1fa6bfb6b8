"""`vgg19 label`: a table and a page of captured images, for a person to fill in."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from models.locations import open_location, reason, without_credentials
from models.text import shown
from training.redeploy.captured import LABELS_FILE, CapturedImage, CaptureError, read_labels
from training.reports.html_page import PAGE_STYLE, picture_of, text

_PAGE_FILE = "label.html"
_COLUMNS = ("stem", "label", "predicted", "probability")


def write_labelling(images: Sequence[CapturedImage], output: Path) -> tuple[Path, Path]:
    """Write `labels.csv`, with the predictions and what is labelled already, and `label.html`.

    The images about which the model was least certain come first.

    Returns:
        the paths of the two.
    """
    ordered = sorted(images, key=_probability)
    output.mkdir(parents=True, exist_ok=True)
    table = output / LABELS_FILE
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for image in ordered:
            writer.writerow(
                [image.stem, image.label or "", _predicted(image), f"{_probability(image):.3f}"]
            )
    page = output / _PAGE_FILE
    page.write_text(_page(ordered), encoding="utf-8")
    return table, page


def put_labels(url: str, table: Path) -> int:
    """Lay a filled-in table beside the captured images; returns how many have a label.

    Labels that are there already stay, unless the table says otherwise.

    Raises:
        CaptureError: the table has other columns, or the location can't be written.
    """
    labels = read_labels(table.read_bytes(), str(table))
    try:
        files, root = open_location(url)
        target = f"{root}/{LABELS_FILE}"
        if files.exists(target):
            labels = read_labels(files.cat_file(target), target) | labels
        lines = ["stem,label", *(f"{stem},{_quoted(label)}" for stem, label in labels.items())]
        files.pipe_file(target, ("\n".join(lines) + "\n").encode())
    except CaptureError:
        raise
    except Exception as error:  # each of fsspec's file systems has exceptions of its own
        raise CaptureError(
            f"{without_credentials(url)} can't be written: {reason(error)}"
        ) from None
    return len(labels)


def _quoted(label: str) -> str:
    return '"' + label.replace('"', '""') + '"'


def _predicted(image: CapturedImage) -> str:
    return str(image.record["predictions"][0]["label"])


def _probability(image: CapturedImage) -> float:
    return float(image.record["predictions"][0]["probability"])


def _page(images: Sequence[CapturedImage]) -> str:
    labels = sorted({p["label"] for image in images for p in image.record["predictions"]})
    chosen = {image.label for image in images if image.label}
    # A page's fields hold one line; what is saved is the label itself.
    exact = {shown(label): label for label in (*labels, *chosen) if shown(label) != label}
    options = "".join(f"<option value='{text(label)}'>" for label in labels)
    figures = "".join(map(_figure, images))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Label {len(images)} images</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{PAGE_STYLE}{_STYLE}</style></head>
<body>
<h1>Label {len(images)} images</h1>
<p class="sub">The least certain first. Choose or type the right label; leave empty what you don't
know. Then save the table and give it to <code>vgg19 label URL --from labels.csv</code>.</p>
<p><button id="save">Save labels.csv</button> <span id="count" role="status"></span></p>
<datalist id="labels">{options}</datalist>
<div class="mistakes">{figures}</div>
<script>const exact = new Map(Object.entries({_in_script(exact)}));{_SCRIPT}</script>
</body></html>
"""


def _in_script(value: object) -> str:
    """JSON that can't end the script that it is in."""
    return json.dumps(value).replace("<", "\\u003c")


def _figure(image: CapturedImage) -> str:
    said = f"{text(_predicted(image))} {_probability(image):.0%}"
    return (
        f"<figure><img alt='image to label' src='{picture_of(image.path)}'>"
        f"<figcaption>said {said}<br>"
        f"<input list='labels' aria-label='right label' data-stem='{text(image.stem)}' "
        f"value='{text(image.label or '')}'>"
        f"<button type='button' class='right' data-label='{text(_predicted(image))}'>"
        "right</button></figcaption></figure>"
    )


_STYLE = """
input { width: 100%; box-sizing: border-box; font: inherit } button { font: inherit }
#save { padding: .4rem 1rem }
"""
_HEAD = json.dumps("stem,label\n")
_SCRIPT = f"""
const inputs = [...document.querySelectorAll("input")];
const count = () => document.getElementById("count").textContent =
  inputs.filter(i => i.value.trim()).length + " of " + inputs.length + " labelled";
document.addEventListener("input", count);
document.addEventListener("click", event => {{
  if (!event.target.matches(".right")) return;
  event.target.parentElement.querySelector("input").value = event.target.dataset.label;
  count();
}});
document.getElementById("save").addEventListener("click", () => {{
  const quoted = text => '"' + text.replaceAll('"', '""') + '"';
  const rows = inputs.filter(i => i.value.trim())
    .map(i => i.dataset.stem + "," + quoted(exact.get(i.value.trim()) ?? i.value.trim()));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([{_HEAD} + rows.join("\\n") + "\\n"],
    {{type: "text/csv"}}));
  link.download = "labels.csv";
  link.click();
}});
count();
"""
