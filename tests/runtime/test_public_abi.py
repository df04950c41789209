"""mossnet.h as it was promised: what an ABI version declares stays, and what is added is noted.

After a change that was meant: `python -m tests.runtime.test_public_abi` writes what is declared now. One that changes
or removes what was there needs a higher MOSSNET_ABI_VERSION first.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from mossnet_tg.engine import ABI_VERSION
from tests.runtime.toy import RUNTIME

GOLDEN = Path(__file__).parents[1] / "golden" / "mossnet_abi.txt"


def declared() -> list[str]:
    """The header's declarations and constants, one a line, without comments and line breaks."""
    command = ["gcc", "-fpreprocessed", "-dD", "-E", "-P", RUNTIME / "mossnet.h"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line for line in text.splitlines() if not re.match(r"#\s*(include|if|endif|undef)|extern", line)]
    constants = [" ".join(line.split()) for line in lines if line.startswith("#define")]
    code = " ".join(line for line in lines if not line.startswith("#")).replace("MOSSNET_API ", "")
    found, depth, begin = constants, 0, 0
    for i, c in enumerate(code):
        depth += (c == "{") - (c == "}")
        if c == ";" and depth == 0:
            found.append(" ".join(code[begin : i + 1].split()))
            begin = i + 1
    return found


def test_nothing_changed_unnoticed() -> None:
    promised, now = GOLDEN.read_text().splitlines(), declared()
    version = f"#define MOSSNET_ABI_VERSION {ABI_VERSION}"
    assert version in now and len(now) > 60
    missing = [line for line in promised if line not in now]
    if version in promised:
        assert not missing, "changed or gone: raise MOSSNET_ABI_VERSION, then python -m tests.runtime.test_public_abi"
    assert not [line for line in now if line not in promised], "new: python -m tests.runtime.test_public_abi"


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(declared()) + "\n")
