"""How tables and tools write that an image has no label."""

from __future__ import annotations

# -1 is what the Hugging Face hub's unlabelled test splits hold; the words are how Python, pandas,
# SQL and spreadsheets write a missing value.
_MISSING = frozenset(
    ("", "-1", "-1.0", "none", "null", "nan", "<na>", "nat", "n/a", "#n/a", "nil", "\\n",
     "unlabeled", "unlabelled")
)  # fmt: skip
# A folder's name is somebody's choice: `none` may well be a class (no defect), but what a script
# makes of a missing value is not.
_FOLDERS = frozenset(("None", "nan", "NaN", "<NA>", "NaT", "-1", "unlabeled", "unlabelled"))


def is_missing(label: str) -> bool:
    """Whether a value of a label column says that there is no label."""
    return label.strip().casefold() in _MISSING


def is_missing_folder(name: str) -> bool:
    """Whether a class folder was named after a missing label."""
    return name in _FOLDERS or name.casefold() in ("unlabeled", "unlabelled")
