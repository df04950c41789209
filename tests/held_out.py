"""The demo's held-out text on stdout: the test packages of this Python's standard library, the end of a text between
two files.

    python tests/held_out.py --every 20 > held-out.txt
    mossnet-tg perplexity -f held-out.txt
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package

from mossnet_tg.weights.reference.corpus import END_OF_TEXT, texts


def held_out(every: int) -> str:
    """One file in `every`, evenly spread over all."""
    return END_OF_TEXT.join(text for _, text in itertools.islice(texts(held_out=True), 0, None, every))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one file in N (default: each)")
    sys.stdout.buffer.write(held_out(parser.parse_args().every).encode())


if __name__ == "__main__":
    main()
