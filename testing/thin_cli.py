"""`vgg19` with a thin VGG-19, for tests of processes: python -m testing.thin_cli ARGUMENTS."""

from __future__ import annotations

import models.network.vgg19
from cli.main import main
from testing.small_vgg import thin_vgg19

models.network.vgg19.vgg19 = thin_vgg19  # type: ignore[attr-defined]  # it isn't exported

if __name__ == "__main__":
    main()
