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
    """The options of `prtrace agent`, checked by the command."""

    state_dir: Path = STATE_DIR
    socket: Path = Path(SOCKET)
    engine: str = "auto"
    """One of ENGINES."""
    read_in_doubt: bool = True
    """Whether the agent may send PR IN by itself to resolve doubt."""
    ring_size: int = RING_SIZE
    """Bytes: a power of two, at least 4096."""
    keep_events: int = KEEP_EVENTS
    """How many events the store keeps."""
    keep_bytes: int = KEEP_BYTES
    """How many bytes of the disk the store may take."""
    socket_mode: int = 0o660
    """With socket_group, who may connect, and so who may read."""
    socket_group: str = ""
    admin_group: str = ""
    """The group whose members may make changing calls, beside uid 0; "" for nobody."""
    log_level: str = "info"
    """One of prtrace.linux.logs.LEVELS."""
    log_format: str = "text"
    """One of prtrace.linux.logs.FORMATS."""
    user: str = USER
    """As whom it reads what others send."""
    claims: tuple[Path, ...] = (CLAIMS_DIR,)
    """The run directories of proxies, whose attribution records say for which guest a command
    is."""
    verify: int = 0
    """How often, in seconds, the units that verified names are read although nothing of them is in
    doubt; 0 for never."""
    verified: tuple[str, ...] = ()
    """Names of units; all units where there is none."""
