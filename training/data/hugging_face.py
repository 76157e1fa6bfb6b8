"""Images of a Hugging Face data set, from the hub or from disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from training.data.listing import _SPLIT_NAMES, DataError, ImageFile

HF_PREFIX = "hf:"


def is_saved_dataset(data: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this directory."""
    return (data / "dataset_dict.json").is_file() or (data / "dataset_info.json").is_file()


def from_hugging_face(data: Path, label_column: str, image_column: str) -> list[ImageFile]:
    """The images are written to files once, below the cache directory, named by content."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{data} is a Hugging Face data set; install the extra: pip install '.[hf]'"
        ) from None
    loaded = _load_dataset(datasets, data)
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    cache = cache_directory() / "hf"
    cache.mkdir(parents=True, exist_ok=True)
    files: list[ImageFile] = []
    for split_name, split in splits.items():
        for column in (image_column, label_column):
            if column not in split.column_names:
                raise DataError(
                    f"{data} has no column '{column}' (it has {', '.join(split.column_names)}); "
                    "name it with image_column or label_column in the config file"
                )
        label_feature = split.features[label_column]
        encoded = split.cast_column(image_column, datasets.Image(decode=False))
        for row in encoded:
            label = row[label_column]
            name = label_feature.int2str(label) if hasattr(label_feature, "int2str") else str(label)
            path = _write_once(cache, row[image_column])
            files.append(ImageFile(path, name, _SPLIT_NAMES.get(str(split_name))))
    return files


def _load_dataset(datasets: Any, data: Path) -> Any:
    try:
        if is_saved_dataset(data):
            return datasets.load_from_disk(str(data))
        name, _, revision = str(data).removeprefix(HF_PREFIX).partition("@")
        return datasets.load_dataset(name, revision=revision or None)
    except Exception as error:  # the library raises its own, fsspec's, httpx's and OSErrors
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the data set {data} can't be loaded: {reason}") from error


def _write_once(cache: Path, image: dict[str, Any]) -> Path:
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    path = cache / hashlib.sha256(content).hexdigest()
    if not path.exists():
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)
    return path


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/vgg19`, by default `~/.cache/vgg19`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vgg19"
