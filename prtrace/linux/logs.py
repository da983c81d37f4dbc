"""The log of a service: lines for people on a terminal, for the journal, or JSON for machines."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Final

_PRIORITY: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
            }
        )


class _Journal(logging.Formatter):
    """sd-daemon(3): "<priority>" before the line; the journal knows the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITY.get(record.levelno, 6)}>{record.name}: {record.getMessage()}"


LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")


def under_journal() -> bool:
    """Whether systemd connected this process's standard error to the journal."""
    return "JOURNAL_STREAM" in os.environ


def set_up(level: str, form: str) -> None:
    """Send the log to standard error.  level: one of LEVELS.  form: one of FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(_Json())
    elif under_journal():
        handler.setFormatter(_Journal())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # asyncio tells of each selector that it makes.
    logging.getLogger("asyncio").setLevel(max(logging.getLogger().level, logging.INFO))
