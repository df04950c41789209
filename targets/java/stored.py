"""A zip archive that is the same whenever and wherever it is made of the same files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from io import BytesIO

_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip archive knows
_UNIX = 3
_MODE = 0o100644


def stored(files: Mapping[str, bytes]) -> bytes:
    """The archive of files by their names, sorted. Not compressed: each version of zlib does that in its own way."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _TIME)
            info.create_system, info.external_attr = _UNIX, _MODE << 16
            archive.writestr(info, files[name])
    return out.getvalue()
