"""What programs leave beside images: not images, and not mistakes either."""

from __future__ import annotations

from pathlib import PurePath

_NAMES = frozenset(
    (
        "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "autorun.inf",
        "picasa.ini", "license", "licence", "readme", "checksums", "md5sums", "sha256sums",
        "makefile",
    )
)  # fmt: skip
# Annotations, captions, tables, notes and archives of settings.
_SUFFIXES = frozenset(
    (
        ".aae", ".bak", ".cfg", ".csv", ".db", ".doc", ".docx", ".dvc", ".htm", ".html", ".ini",
        ".ipynb", ".json", ".jsonl", ".lnk", ".lock", ".log", ".mat", ".md", ".md5", ".npy", ".npz",
        ".parquet", ".pbtxt", ".pdf", ".pickle", ".pkl", ".py", ".rst", ".sh", ".sha256", ".sqlite",
        ".thm", ".toml", ".tsv", ".txt", ".url", ".xls", ".xlsx", ".xml", ".xmp", ".yaml", ".yml",
    )
)  # fmt: skip
_FOLDERS = frozenset(
    (
        "__macosx", "__pycache__", "lost+found", "$recycle.bin", "recycler", "#recycle", "@eadir",
        "@recycle", "system volume information", "found.000",
    )
)  # fmt: skip


def side_kind(name: str, *, is_folder: bool) -> str | None:
    """What a side file or folder is counted as, such as `.xml` or `Thumbs.db`; None: it is none.

    Hidden files and folders (`.DS_Store`, `.ipynb_checkpoints`, `._a.jpg`) are side files.
    """
    if name.startswith("."):
        return "._*" if name.startswith("._") else name
    folded = name.casefold()
    if is_folder:
        return name if folded in _FOLDERS else None
    if folded in _NAMES:
        return name.strip()
    suffix = PurePath(folded).suffix
    return suffix if suffix in _SUFFIXES else None
