"""Tells a receiver of the user's what becomes of the models: CloudEvents over HTTP, signed.

    from models.events import emit
    emit("drift.detected", "vgg19:20260131-120000-1a2b3c", {"feature": "brightness", "psi": 0.31})

`emit` puts an event into a queue on the disk and returns within milliseconds; it never raises, and
does nothing where VGG19_EVENTS_URL isn't set. It writes and syncs a file: in an event loop it
belongs into a thread. Delivery is others' (`models.events.sender`): the service's background
thread, or the end of a command.
"""

from models.events.emitting import emit
from models.events.event import Kind

__all__ = ["Kind", "emit"]
