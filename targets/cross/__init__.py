"""libmossnet and its runner for another platform, built here, from the sources that the package carries."""

from mossnet_tg.targets.cross.build import library, runner

__all__ = ["library", "runner"]
