"""Where the programs of the proxy's tests are."""

from __future__ import annotations

import sys
from pathlib import Path

for place in (Path(__file__).parent, Path(__file__).parents[1] / "hostile"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
