"""What an agent is told on its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prtrace.api.address import SOCKET
from prtrace.store.room import KEEP_BYTES, KEEP_EVENTS

STATE_DIR: Final = Path("/var/lib/prtrace")
CLAIMS_DIR: Final = Path("/run/prtrace-proxy")
"""Where the proxy's unit has its run directory."""
RING_SIZE: Final = 16 << 20
USER: Final = "prtrace"
"""Whom the installed packages make for the agent."""
ENGINES: Final = ("auto", "core", "bcc")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """The options of `prtrace agent`, checked by the command.

    engine: one of ENGINES.  read_in_doubt: whether the agent may send PR IN by itself to
    resolve doubt.  ring_size: bytes, a power of two and at least 4096.  socket_mode and
    socket_group say who may connect, and so who may read.  admin_group: the group whose
    members may make changing calls beside uid 0; "" for nobody.  log_level, log_format: as
    prtrace.linux.logs has them.  keep_events, keep_bytes: how many events the store keeps, and
    how many bytes of the disk it may take.  claims: the run directories of proxies, whose
    claims say for which guest they send a command.  verify: how often, in seconds, the units
    named by verified are read although nothing of them is in doubt; 0 for never, and no name for
    all units.
    """

    state_dir: Path = STATE_DIR
    socket: Path = Path(SOCKET)
    engine: str = "auto"
    read_in_doubt: bool = True
    ring_size: int = RING_SIZE
    keep_events: int = KEEP_EVENTS
    keep_bytes: int = KEEP_BYTES
    socket_mode: int = 0o660
    socket_group: str = ""
    admin_group: str = ""
    log_level: str = "info"
    log_format: str = "text"
    user: str = USER
    """As whom it reads what others send."""
    claims: tuple[Path, ...] = (CLAIMS_DIR,)
    verify: int = 0
    verified: tuple[str, ...] = ()
