from __future__ import annotations

import pytest

from serving.core.errors import ShuttingDown
from testing.images import coloured_pixels
from tests.serving.conftest import StubModel, served

PIXELS = [coloured_pixels(0)]


async def test_who_uses_it_too_long_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    model = served("v1", StubModel())
    model.acquire()
    await model.close(grace_s=0.01)
    with pytest.raises(ShuttingDown):
        await model.batcher.submit(PIXELS)
    assert "vgg19:v1 is closed while 1 use it" in caplog.text
