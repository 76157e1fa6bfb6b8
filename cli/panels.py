"""Under which heading `vgg19 --help` lists a command, in the order of the work."""

from __future__ import annotations

TRAIN = "Train"
IMAGES = "Images and labels"
RELEASE = "Release"
SERVE = "Serve and classify"
PRODUCTION = "Watch production"
