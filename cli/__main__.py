"""`python -m mossnet_tg.cli`, the same as `mossnet-tg`."""

from mossnet_tg.cli import main

if __name__ == "__main__":
    main()
