"""`make soak`."""

import sys

from tests.soak.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
