"""Lets `python -m trimtab` stand for the `trimtab` command."""

import sys

from trimtab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
