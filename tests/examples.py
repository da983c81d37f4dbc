"""How many examples of a property are tried: few while one works on it, all of them in CI."""

from __future__ import annotations

from hypothesis import settings


def share(count: int) -> int:
    """count; in `tools/test fast` as much less as hypothesis tries fewer examples there.

    For what has examples of its own: seeds of random walks, places where a failure is injected.
    """
    tried, all_of_them = (
        each.max_examples for each in (settings.default, settings.get_profile("ci"))
    )
    return max(1, count * tried // all_of_them)
