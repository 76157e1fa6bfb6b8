"""The one error family for what a user can put right."""


class UserError(Exception):
    """A mistake in the user's input; the message names the value, the limit and the way out.

    The command line prints the message alone. Servers map the subclasses they expect and treat
    every other exception as internal.
    """


class ImageError(UserError):
    """The bytes or the file can't be turned into an image."""


class UnknownFormat(ImageError):
    """The bytes are no image of a format that is opened."""


class TooManyPixels(ImageError):
    """The image has more pixels than the limit; nothing of it was decoded."""

    def __init__(self, width: int, height: int, limit: int) -> None:
        self.width, self.height, self.pixels = width, height, width * height
        super().__init__(
            f"the image has {width} x {height} = {self.pixels:,} pixels, the limit is {limit:,}; "
            "scale it down"
        )


class BundleError(UserError):
    """A bundle on disk is missing, incomplete or not what its manifest says."""


class StoreError(UserError):
    """The model store doesn't hold what was asked for."""
