"""Real labelled images that come with packages, as folders that `vgg19 train` reads.

    python -m benchmarks.training.data_sets digits emoji --output build/data-sets

`--seed 0` and `--root /` are the defaults.

| name   | package                          | class                     | licence          |
|--------|----------------------------------|---------------------------|------------------|
| digits | scikit-learn (PyPI)              | digit                     | CC BY 4.0 (UCI)  |
| stamps | tuxpaint-stamps-default (Debian) | folder, the seven largest | its copyright    |
| emoji  | ruby-gemojione (Debian)          | category                  | CC BY-SA 4.0     |
| icons  | mate- and oxygen-icon-theme      | context of the icon       | LGPL 3, CC BY-SA |

The Debian packages are installed, or unpacked somewhere (`dpkg-deb -x PACKAGE ROOT`, `--root`).
None of them is shipped with the project.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

# Of each data set: enough to judge by, few enough for minutes on two cores.
TRAIN_IMAGES, VAL_IMAGES, TEST_IMAGES = 160, 120, 400
_OF_A_CLASS = 160
SPLITS = ("train", "val", "test")
_SIDE = 64

_GEMS = Path("usr/share/rubygems-integration/all/gems")
_STAMPS = Path("usr/share/tuxpaint/stamps")
_STAMP_CLASSES = ("animals", "food", "household", "plants", "seasonal", "town", "vehicles")
_THEMES = {"mate": "48x48/{}", "oxygen": "base/48x48/{}"}
_CONTEXTS = ("actions", "devices", "mimetypes", "places", "status")


@dataclass(frozen=True)
class Picture:
    """A labelled image. Those of one `group` show much the same: they come to the same split."""

    image: Image.Image
    label: str
    group: str


class MissingPackageError(Exception):
    """The package that holds the images isn't there."""


def digits(_: Path) -> Iterator[Picture]:
    """Handwritten, 8 x 8 pixels."""
    bunch = load_digits()
    for number, (pixels, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        image = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
        yield Picture(image, str(label), str(number))


def stamps(root: Path) -> Iterator[Picture]:
    """Photographs and drawings of things."""
    for label in _STAMP_CLASSES:
        for path in _pictures(root / _STAMPS / label, "tuxpaint-stamps-default"):
            yield Picture(Image.open(path), label, path.stem)


def emoji(root: Path) -> Iterator[Picture]:
    """Of EmojiOne; the skin tones of one emoji are a group."""
    package = "ruby-gemojione"
    gems = [*(root / _GEMS).glob("gemojione-*")]
    if not gems:
        raise _missing(root / _GEMS, package)
    entries = json.loads((gems[0] / "config" / "index.json").read_text(encoding="utf-8"))
    for name, entry in sorted(entries.items()):
        path = gems[0] / "assets" / "png" / f"{entry['unicode']}.png"
        if entry["category"] not in ("modifier", "extras") and path.is_file():
            yield Picture(Image.open(path), entry["category"], name.partition("_tone")[0])


def icons(root: Path) -> Iterator[Picture]:
    """Of two desktops; icons of one name are a group."""
    for theme, folder in _THEMES.items():
        for context in _CONTEXTS:
            place = root / "usr/share/icons" / theme / folder.format(context)
            for path in _pictures(place, f"{theme}-icon-theme"):
                if not path.is_symlink():
                    yield Picture(Image.open(path), context, path.stem)


DATA_SETS: dict[str, Callable[[Path], Iterator[Picture]]] = {
    "digits": digits,
    "stamps": stamps,
    "emoji": emoji,
    "icons": icons,
}


def write(name: str, output: Path, *, root: Path, seed: int) -> Path:
    """Write `output/NAME-SEED/{train,val,test}/class/*.png`, unless it is there.

    The seed decides which groups come to which split.

    Raises:
        MissingPackageError: its package isn't there.
    """
    folder = output / f"{name}-{seed}"
    if folder.exists():
        return folder
    chosen = _chosen(DATA_SETS[name](root), np.random.default_rng(seed))
    staging = folder.with_name(f".{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    for number, (split, picture) in enumerate(chosen):
        place = staging / split / picture.label
        place.mkdir(parents=True, exist_ok=True)
        picture.image.save(place / f"{number:04}.png")
    staging.rename(folder)
    return folder


def _chosen(pictures: Iterator[Picture], rng: np.random.Generator) -> Iterator[tuple[str, Picture]]:
    """Each with its split: whole groups in random order, to train first."""
    groups: dict[str, list[Picture]] = defaultdict(list)
    seen: set[str] = set()
    for picture in pictures:
        plain = _on_white(picture.image)
        content = hashlib.sha256(plain.tobytes()).hexdigest()
        if content not in seen:  # one icon may have several names
            seen.add(content)
            groups[picture.group].append(Picture(plain, picture.label, picture.group))
    names = sorted(groups)
    counts: dict[str, int] = defaultdict(int)
    few: list[Picture] = []
    for place in rng.permutation(len(names)).tolist():
        for member in groups[names[place]]:
            counts[member.label] += 1
            if counts[member.label] <= _OF_A_CLASS:
                few.append(member)
    few = [few[place] for place in _whole_groups(few, rng)]
    ends = np.cumsum([TRAIN_IMAGES, VAL_IMAGES, TEST_IMAGES])
    split, last = 0, ""
    for number, member in enumerate(few):
        if member.group != last:
            split = int(np.searchsorted(ends, number, side="right"))
        if split == len(SPLITS):
            return
        last = member.group
        yield SPLITS[split], member


def _whole_groups(pictures: list[Picture], rng: np.random.Generator) -> list[int]:
    """Their numbers in random order, those of a group together."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, picture in enumerate(pictures):
        groups[picture.group].append(number)
    members = list(groups.values())
    return [number for place in rng.permutation(len(members)) for number in members[place]]


def _on_white(image: Image.Image) -> Image.Image:
    """RGB, at most `_SIDE` pixels a side."""
    image = image.convert("RGBA")
    image.thumbnail((_SIDE, _SIDE))
    plain = Image.new("RGBA", image.size, "white")
    plain.alpha_composite(image)
    return plain.convert("RGB")


def _pictures(folder: Path, package: str) -> list[Path]:
    if not folder.is_dir():
        raise _missing(folder, package)
    return sorted(folder.rglob("*.png"))


def _missing(folder: Path, package: str) -> MissingPackageError:
    return MissingPackageError(
        f"{folder} is not there; install Debian's package {package}, or unpack it and name --root"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="+", choices=sorted(DATA_SETS))
    parser.add_argument("--output", type=Path, default=Path("build/data-sets"))
    parser.add_argument("--root", type=Path, default=Path("/"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.names:
        print(write(name, options.output, root=options.root, seed=options.seed))


if __name__ == "__main__":
    main()
