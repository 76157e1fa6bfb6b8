"""What programs leave beside images: not images, and not mistakes either."""

from __future__ import annotations

from pathlib import Path, PurePath

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
# Names of images, those among them that can't be read here: their owner is told so.
_IMAGE_SUFFIXES = frozenset(
    (
        ".apng", ".arw", ".avif", ".bmp", ".cr2", ".cr3", ".dib", ".dng", ".gif", ".heic", ".heif",
        ".hif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jxl", ".nef", ".orf",
        ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".raf", ".rw2", ".svg", ".tga", ".tif",
        ".tiff", ".webp",
    )
)  # fmt: skip
# How images begin, by their formats' specifications.
_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ", b"\xff\x0a", b"8BPS",
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


def may_be_image(path: Path) -> bool:
    """Whether a file is named as an image, begins as one, or has a name that says nothing.

    What is none of these lies beside the images: sounds, films, data of any program. A file that
    can't be read may be one.
    """
    suffix = path.suffix.casefold()
    if not suffix or suffix in _IMAGE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return True
    if head.startswith(b"RIFF"):
        return head.endswith(b"WEBP")
    is_heif = head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif")
    return is_heif or head.startswith(_SIGNATURES)
