"""Names as nobody would choose them, and a data set of them."""

from __future__ import annotations

import os
from pathlib import Path

from models.text import as_label
from testing.images import coloured_pixels, encode

# Of folders: markup of rich, HTML, Markdown and mathtext, line breaks, escape sequences, other
# encodings, a word composed and decomposed, long, reversed, emoji, a formula.
CLASS_NAMES = (
    "[red]x[bold] :cat: \\",
    "<script>alert(1)<b>&amp;'\"",
    "a|b*c*_d_`e` [l](x) ~~s~~ # ![i](y)",
    r"$\frac$ $x^2$ {0} %s",
    "two\nlines\r\x1b[31m\x07",
    os.fsdecode(b"caf\xe9"),
    "caf\u00e9",
    "cafe\u0301",
    "x" * 200,
    "\u202eevil\u2066",
    "日本 🐈\u200d⬛",
    "=1+1",
)
# What they are called as classes.
LABELS = tuple(sorted({as_label(name) for name in CLASS_NAMES}))
FILE_STEMS = ("[b]f", "<i>&", "a|b", "$f$", "n\nl", os.fsdecode(b"\xff\xfe"), "\u202ey", "y" * 200)


def write_hostile_folder(root: Path) -> Path:
    """`root/CLASS/FILE.png`: `CLASS_NAMES`, with as many images each as there are `FILE_STEMS`."""
    for number, name in enumerate(CLASS_NAMES):
        (root / name).mkdir(parents=True)
        for image, stem in enumerate(FILE_STEMS):
            pixels = coloured_pixels(100 * number + image)
            (root / name / f"{stem}.png").write_bytes(encode(pixels))
    return root
