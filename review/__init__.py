"""People's decisions about images: on the disk, on a page, and in other tools' files."""
