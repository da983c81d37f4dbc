"""libvirtd by its own Python bindings (package python3-libvirt): events, states and notes.

The bindings are not on PyPI for every release and are no requirement of prtrace: they are imported
where this module is used, and what is missing is said.
"""

from __future__ import annotations

import enum
import importlib
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from prtrace.errors import PrtraceError, UnavailableError
from prtrace.libvirt.domain import NAMESPACE, Domain, parse

URI: Final = "qemu:///system"
_log = logging.getLogger(__name__)


class GuestNews(enum.Enum):
    """What an event says of a guest."""

    CHANGED = "changed"
    """It is to be looked at."""
    LEFT = "left"
    """It left by migration."""
    TRANSFERS = "transfers"
    """Its memory is on the way to somewhere: a migration from here, a save file, a dump."""


Heard = Callable[[str, GuestNews], None]
"""Called with a UUID and what is new about it."""


class GuestState(enum.Enum):
    """How libvirt says that a guest is here."""

    RUNS = "runs"
    WAITS = "waits"
    """Paused, and no migration is under way."""
    ENDED = "ended"
    LEFT = "left"
    """Ended, and libvirt remembers that it left by migration."""
    BUSY = "busy"
    """Something of which nothing follows: a guest that waits for its migration, say."""


class HypervisorError(PrtraceError):
    """libvirt did not do what it was asked."""


class Hypervisor:
    """A connection to libvirtd.  heard: called on libvirt's event thread, and must not wait."""

    def __init__(self, heard: Heard, uri: str = URI) -> None:
        """Raises UnavailableError without the bindings, HypervisorError without libvirtd."""
        self._libvirt = _bindings()
        self._heard = heard
        _start_events(self._libvirt)
        try:
            self._connection = self._libvirt.open(uri)
            self._connection.setKeepAlive(5, 3)
            register = self._connection.domainEventRegisterAny
            register(None, self._libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
            for name in ("JOB_COMPLETED", "DEVICE_REMOVED", "DEVICE_ADDED"):
                kind = getattr(self._libvirt, f"VIR_DOMAIN_EVENT_ID_{name}")
                register(None, kind, self._changed, None)
            kind = self._libvirt.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION
            register(None, kind, self._transfers, None)
        except self._libvirt.libvirtError as error:
            raise HypervisorError(f"libvirt at {uri}: {error}") from error

    def alive(self) -> bool:
        """Whether libvirtd still answers on this connection."""
        try:
            return bool(self._connection.isAlive())
        except self._libvirt.libvirtError:
            return False

    def close(self) -> None:
        """Give the connection up."""
        try:
            self._connection.close()
        except self._libvirt.libvirtError as error:
            _log.debug("closing: %s", error)

    def active(self) -> list[str]:
        """The UUIDs of the guests that are here now."""
        only = self._libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        try:
            return [each.UUIDString() for each in self._connection.listAllDomains(only)]
        except self._libvirt.libvirtError as error:
            raise HypervisorError(f"the guests cannot be listed: {error}") from error

    def known(self) -> list[str]:
        """The UUIDs of all guests that libvirt knows here, those that are only defined, too."""
        try:
            return [each.UUIDString() for each in self._connection.listAllDomains(0)]
        except self._libvirt.libvirtError as error:
            raise HypervisorError(f"the guests cannot be listed: {error}") from error

    def sight(self, uuid: str) -> GuestState:
        """How a guest is now."""
        try:
            state, reason = self._domain(uuid).state()
        except self._libvirt.libvirtError as error:
            if error.get_error_code() == self._libvirt.VIR_ERR_NO_DOMAIN:
                return GuestState.ENDED
            raise HypervisorError(f"guest {uuid}: {error}") from error
        if state == self._libvirt.VIR_DOMAIN_RUNNING:
            return GuestState.RUNS
        if (state, reason) == (
            self._libvirt.VIR_DOMAIN_PAUSED,
            self._libvirt.VIR_DOMAIN_PAUSED_USER,
        ):
            return GuestState.WAITS
        if state in (self._libvirt.VIR_DOMAIN_SHUTOFF, self._libvirt.VIR_DOMAIN_CRASHED):
            left = reason == self._libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED
            return GuestState.LEFT if left else GuestState.ENDED
        return GuestState.BUSY

    def paused_before(self, uuid: str) -> bool:
        """Whether a guest that is being migrated, or saved, was paused before that began."""
        known = self._libvirt
        of_the_job = (
            known.VIR_DOMAIN_PAUSED_MIGRATION,
            known.VIR_DOMAIN_PAUSED_SAVE,
            known.VIR_DOMAIN_PAUSED_DUMP,
            known.VIR_DOMAIN_PAUSED_SNAPSHOT,
            known.VIR_DOMAIN_PAUSED_POSTCOPY,
        )
        try:
            state, reason = self._domain(uuid).state()
        except known.libvirtError as error:
            raise HypervisorError(f"guest {uuid}: {error}") from error
        return state == known.VIR_DOMAIN_PAUSED and reason not in of_the_job

    def domain(self, uuid: str) -> Domain:
        """The guest's live XML, without what is secret."""
        try:
            return parse(self._domain(uuid).XMLDesc(0))
        except self._libvirt.libvirtError as error:
            raise HypervisorError(f"guest {uuid}: {error}") from error

    def under_job(self, uuid: str) -> bool:
        """Whether a migration, save or the like of the guest is under way."""
        try:
            return bool(self._domain(uuid).jobInfo()[0])
        except self._libvirt.libvirtError as error:
            if error.get_error_code() == self._libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
                # A destination does not tell of a migration that is under way to it.
                return True
            raise HypervisorError(f"guest {uuid}: {error}") from error

    def write_note(self, uuid: str, element: str) -> None:
        """Put the note into the live metadata; waits half a minute where a job is under way."""
        try:
            self._domain(uuid).setMetadata(
                self._libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                element,
                "prtrace",
                NAMESPACE,
                self._libvirt.VIR_DOMAIN_AFFECT_LIVE,
            )
        except self._libvirt.libvirtError as error:
            raise HypervisorError(f"guest {uuid}: its note cannot be written: {error}") from error

    def pause(self, uuid: str) -> None:
        """Pause the guest."""
        self._do(uuid, "suspend")

    def resume(self, uuid: str) -> None:
        """Let the guest go on."""
        self._do(uuid, "resume")

    def _do(self, uuid: str, what: str) -> None:
        try:
            getattr(self._domain(uuid), what)()
        except self._libvirt.libvirtError as error:
            raise HypervisorError(f"guest {uuid}: {what}: {error}") from error

    def _domain(self, uuid: str) -> Any:
        return self._connection.lookupByUUIDString(uuid)

    def _lifecycle(self, _: Any, domain: Any, event: int, detail: int, __: Any) -> None:
        left = (
            event == self._libvirt.VIR_DOMAIN_EVENT_STOPPED
            and detail == self._libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED
        )
        self._heard(domain.UUIDString(), GuestNews.LEFT if left else GuestNews.CHANGED)

    def _changed(self, _: Any, domain: Any, *__: Any) -> None:
        self._heard(domain.UUIDString(), GuestNews.CHANGED)

    def _transfers(self, _: Any, domain: Any, *__: Any) -> None:
        self._heard(domain.UUIDString(), GuestNews.TRANSFERS)


def _bindings() -> Any:
    try:
        return importlib.import_module("libvirt")
    except ImportError as error:
        raise UnavailableError(
            "the Python bindings of libvirt are not installed",
            hint="install them from the distribution: apt install python3-libvirt",
        ) from error


_events = threading.Lock()


def _start_events(libvirt: Any) -> None:
    """Run libvirt's event loop on a thread of its own, once in a process."""
    if not _events.acquire(blocking=False):
        return
    libvirt.virEventRegisterDefaultImpl()
    libvirt.registerErrorHandler(lambda _context, _error: None, None)

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt events", daemon=True).start()
