"""python -m labkit: the entry of ./tools/lab."""

import sys

from labkit.cli import main

sys.exit(main())
