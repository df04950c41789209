"""libmossnet and its runner for another platform, built here, from the sources that the package carries."""

from mossnet_tg.targets.cross.build import archive, library, runner

__all__ = ["archive", "library", "runner"]
