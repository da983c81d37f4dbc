"""How many walks and injected failures are tried: few while one works, all of them in CI."""

from __future__ import annotations

from hypothesis import settings


def share(count: int) -> int:
    """count; in `tools/test fast` as much less as hypothesis tries fewer examples there.

    For what has examples of its own: seeds of random walks, places where a failure is injected.
    """
    tried = settings.default.max_examples
    if tried >= settings.get_profile("ci").max_examples:
        return count
    return max(1, count * tried // settings.get_profile("full").max_examples)
