"""`POST /feedback`: the right label of an image that was kept."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.text import as_label
from serving.context import ServiceContext
from serving.core.errors import BadRequest, NotFound
from serving.http.body import json_object
from serving.observability.telemetry import REQUEST_ID

_MAX_LABEL = 200


async def feedback(request: Request) -> Response:
    """`POST /feedback` with `request_id`, `label` and, of several images, `image` (0 is the first).

    There only where images are kept (VGG19_CAPTURE).
    """
    context: ServiceContext = request.app.state.context
    if context.capture is None:
        raise NotFound("nothing is kept here (VGG19_CAPTURE is off), so nothing can be labelled")
    body = await json_object(request)
    request_id, label, index = body.get("request_id"), body.get("label"), body.get("image", 0)
    if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id):
        raise BadRequest("'request_id' must be the X-Request-Id of an answer")
    label = as_label(label.strip()) if isinstance(label, str) else ""
    if not 0 < len(label) <= _MAX_LABEL:
        raise BadRequest(f"'label' must be text, of up to {_MAX_LABEL} characters")
    if isinstance(index, float) and index.is_integer():  # 1.0 is 1 in JSON
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1000:
        raise BadRequest("'image' must be the place of the image in its request, from 0")
    await context.capture.add_label(request_id, index, label)
    context.on_label(request_id, index, label)
    return JSONResponse({"stored": True})
