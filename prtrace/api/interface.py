"""The Varlink interface io.prtrace, declared for asyncvarlink.

The declaration is the contract: the server checks calls against it (prtrace.api.calls), its
introspection is rendered from it, and an asyncvarlink client can use it as a proxy's type.
The transport is our own (prtrace.api.connection): asyncvarlink's has no limit for the size
of a message or of its send queue, takes up to 1024 file descriptors with a message, and
serialises a reply once for each receiver.
"""

# Without "from __future__ import annotations": asyncvarlink reads the annotations as types.
# The bodies are declarations, and a function's names are those of the protocol.
# ruff: noqa: N802

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, TypedDict

from asyncvarlink import TypedVarlinkErrorReply, VarlinkInterface, varlinkmethod

from prtrace.api.address import INTERFACE


class ShowReply(TypedDict):
    """The members of a prtrace.show/1 object."""

    schema: str
    host: str
    units: list[Any]


class EventsReply(TypedDict, total=False):
    """Events in order; gap ends a stream whose reader was too slow: go on from since_seq=gap."""

    events: list[Any]
    gap: int


class ResolveReply(TypedDict):
    """The logical unit, its nodes, and the nexus where the name says one."""

    lu: str
    nexus: str | None
    devices: list[str]


class Message(TypedDict):
    """What went wrong, and what to do next; "" where there is nothing to say."""

    message: str
    hint: str


class NoSuchDevice(TypedVarlinkErrorReply, interface=INTERFACE):
    """The name belongs to no logical unit or device node."""

    parameters: Message


class InvalidArgument(TypedVarlinkErrorReply, interface=INTERFACE):
    """The call makes no sense."""

    parameters: Message


class PermissionDenied(TypedVarlinkErrorReply, interface=INTERFACE):
    """The peer may not make this call."""

    parameters: Message


class StoreFailed(TypedVarlinkErrorReply, interface=INTERFACE):
    """The history cannot be read."""

    parameters: Message


class Busy(TypedVarlinkErrorReply, interface=INTERFACE):
    """There are too many connections; this one is closed."""

    parameters: Message


class Failed(TypedVarlinkErrorReply, interface=INTERFACE):
    """Something else went wrong."""

    parameters: Message


class Interface(VarlinkInterface, name=INTERFACE):
    """SCSI persistent reservations of this host's logical units, as its agent knows them.

    The objects are described by JSON Schemas: prtrace.show/1, prtrace.event/1 and
    prtrace.status/1.
    """

    errors = (NoSuchDevice, InvalidArgument, PermissionDenied, StoreFailed, Busy, Failed)

    @varlinkmethod(return_type=ShowReply, allow_foreign=True)
    @abstractmethod
    def Show(self, *, devices: list[str] | None = None) -> ShowReply:
        """The reservation state of the units that devices name; of all without devices."""

    @varlinkmethod(return_type=EventsReply, allow_foreign=True)
    @abstractmethod
    def Events(
        self,
        *,
        devices: list[str] | None = None,
        since_seq: int | None = None,
        since_time: str | None = None,
        limit: int | None = None,
        last: int | None = None,
        follow: bool | None = None,
    ) -> Iterator[EventsReply]:
        """Events with numbers above since_seq and not before since_time (RFC 3339).

        limit is the most that are sent, last asks for the newest so many.  With follow, what
        happens from then on is sent, too.  The last reply has no events.
        """

    @varlinkmethod(return_type=dict[str, Any], return_parameter="status", allow_foreign=True)
    @abstractmethod
    def Status(self) -> dict[str, Any]:
        """How the agent is doing."""

    @varlinkmethod(return_type=ResolveReply)
    @abstractmethod
    def Resolve(self, *, name: str) -> ResolveReply:
        """The unit that a device node, an address H:C:T:L or a designator stands for."""
