"""`python -m fastmq`."""

import sys

from fastmq.cli import main

if __name__ == "__main__":
    sys.exit(main())
