"""io.prtrace once more, declared for asyncvarlink: a client that nobody here wrote.

Its client checks the form of every reply against this declaration, and what it renders of the
declaration must be the definition that prtrace ships.
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


class RefreshedUnit(TypedDict):
    """A unit, and what came of asking."""

    lu: str
    asked: bool
    problem: str


class CheckReply(TypedDict):
    """The members of a prtrace.check/2 object."""

    schema: str
    host: str
    verdict: str
    units: list[Any]


class StepReply(TypedDict):
    """What was done to a logical unit, in words."""

    lu: str
    what: str


class MoveReply(TypedDict, total=False):
    """Steps as they happen; in the last reply the prtrace.move/2 object."""

    steps: list[StepReply]
    report: dict[str, Any]


class MovesReply(TypedDict):
    """The members of a prtrace.moves/1 object."""

    schema: str
    moves: list[Any]


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
    """There are too many connections, or too many such calls under way."""

    parameters: Message


class Failed(TypedVarlinkErrorReply, interface=INTERFACE):
    """Something else went wrong."""

    parameters: Message


class Verdicts(TypedDict):
    """Why nothing may move: verdict "blocked" or "in doubt", units as in prtrace.check/2."""

    message: str
    hint: str
    verdict: str
    units: list[Any]


class NotMovable(TypedVarlinkErrorReply, interface=INTERFACE):
    """The reservation state may not move now."""

    parameters: Verdicts


class UnderWay(TypedVarlinkErrorReply, interface=INTERFACE):
    """The same logical unit is being moved by another call or process."""

    parameters: Message


class Interface(VarlinkInterface, name=INTERFACE):
    """SCSI persistent reservations of this host's logical units, as its agent knows them.

    The objects are described by JSON Schemas: prtrace.show/1, prtrace.event/1,
    prtrace.status/1, prtrace.check/2, prtrace.save/2, prtrace.move/2 and prtrace.moves/1.
    Refresh, CheckFile, Save, Prepare, Load, LateCommit, Release, Rollback and Finish are for
    root and the agent's --admin-group.

    deadline, in milliseconds from the call: no look and no command begins after it, and the
    report then says "refused" where nothing was sent, "in doubt" where something was.
    """

    errors = (
        NoSuchDevice,
        InvalidArgument,
        PermissionDenied,
        StoreFailed,
        Busy,
        Failed,
        NotMovable,
        UnderWay,
    )

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
        changes: bool | None = None,
        follow: bool | None = None,
    ) -> Iterator[EventsReply]:
        """Events with numbers above since_seq and not before since_time (RFC 3339).

        limit is the most that are sent, last asks for the newest so many.  changes: only
        those of commands that can change reservations.  With follow, what happens from then
        on is sent, too.  The last reply has no events.
        """

    @varlinkmethod(return_type=dict[str, Any], return_parameter="status", allow_foreign=True)
    @abstractmethod
    def Status(self) -> dict[str, Any]:
        """How the agent is doing."""

    @varlinkmethod(return_type=list[RefreshedUnit], return_parameter="units")
    @abstractmethod
    def Refresh(self, *, devices: list[str] | None = None, max_age: int) -> list[RefreshedUnit]:
        """Have the devices confirm what the agent knows of them, where that is old.

        max_age is in seconds, 0 asks now; without devices, all units.  asked says whether a
        unit's knowledge was older, problem why the device has not confirmed it, "" where it has.
        A reading takes the unit attention that waits for its nexus.
        """

    @varlinkmethod(return_type=ResolveReply)
    @abstractmethod
    def Resolve(self, *, name: str) -> ResolveReply:
        """The unit that a device node, an address H:C:T:L or a designator stands for."""

    @varlinkmethod(return_type=CheckReply, allow_foreign=True)
    @abstractmethod
    def Check(
        self, *, devices: list[str], guest: str | None = None, pid: int | None = None
    ) -> CheckReply:
        """May the reservations of devices move to another host now?

        guest is a name or UUID, pid its process: whose they are, where that matters.
        """

    @varlinkmethod(return_type=CheckReply, allow_foreign=True)
    @abstractmethod
    def CheckFile(
        self,
        *,
        file: dict[str, Any],
        devices: dict[str, str] | None = None,
        late: bool | None = None,
        deadline: int | None = None,
    ) -> CheckReply:
        """On the destination: would Prepare go well?  One look; nothing is registered or noted.

        late: as for Prepare.
        """

    @varlinkmethod(return_type=dict[str, Any], return_parameter="file", allow_foreign=True)
    @abstractmethod
    def Save(
        self, *, devices: list[str], guest: str | None = None, pid: int | None = None
    ) -> dict[str, Any]:
        """What is to travel (prtrace.save/2), all devices or none; on the source, when paused."""

    @varlinkmethod(return_type=MoveReply, allow_foreign=True)
    @abstractmethod
    def Prepare(
        self,
        *,
        file: dict[str, Any],
        devices: dict[str, str] | None = None,
        dry_run: bool | None = None,
        late: bool | None = None,
        deadline: int | None = None,
    ) -> Iterator[MoveReply]:
        """On the destination, while the guest runs on the source: register its key beside it.

        late: Load will not come in the pause, but LateCommit after the guest went on; refused
        where that is not possible.
        """

    @varlinkmethod(return_type=MoveReply, allow_foreign=True)
    @abstractmethod
    def LateCommit(
        self,
        *,
        file: dict[str, Any],
        devices: dict[str, str] | None = None,
        deadline: int | None = None,
    ) -> Iterator[MoveReply]:
        """On the destination, after the guest went on there: commit beside the running guest.

        The caller holds the guest's PR OUT back until this has ended.  The word "alarm": pause
        the guest; then Load may follow.
        """

    @varlinkmethod(return_type=MoveReply, allow_foreign=True)
    @abstractmethod
    def Load(
        self,
        *,
        file: dict[str, Any],
        devices: dict[str, str] | None = None,
        dry_run: bool | None = None,
        released: bool | None = None,
        deadline: int | None = None,
    ) -> Iterator[MoveReply]:
        """On the destination, the guest being paused: commit; a good report: it may run here.

        devices says what to use here for a unit of the file; without it, what Prepare used.
        released: the source has released the reservation (Release) for this call to take.  It
        goes on to its end whether or not the caller stays; called again, it goes on after a
        crash.
        """

    @varlinkmethod(return_type=dict[str, Any], return_parameter="report", allow_foreign=True)
    @abstractmethod
    def Release(self, *, file: dict[str, Any], deadline: int | None = None) -> dict[str, Any]:
        """On the source, the guest being paused, for targets that cannot hand over: release."""

    @varlinkmethod(return_type=MoveReply, allow_foreign=True)
    @abstractmethod
    def Rollback(
        self,
        *,
        file: dict[str, Any],
        side: str | None = None,
        runs: bool | None = None,
        destination_is_off: bool | None = None,
        deadline: int | None = None,
    ) -> Iterator[MoveReply]:
        """Abort a move: this host's part of it.

        side: "source" or "destination".  On the source, the guest being paused, a good report
        says that it may go on there; runs: it runs.  destination_is_off: proof from outside
        that the guest cannot run on the destination.
        """

    @varlinkmethod(return_type=dict[str, Any], return_parameter="report", allow_foreign=True)
    @abstractmethod
    def Finish(
        self,
        *,
        file: dict[str, Any],
        from_destination: bool | None = None,
        paused: bool | None = None,
        deadline: int | None = None,
    ) -> dict[str, Any]:
        """Give the guest's key up on the source, after Load.

        from_destination: on the destination, the source's host being off; it takes away what the
        source left where the guest holds the reservation alone.  paused: the guest is, which
        several paths need.
        """

    @varlinkmethod(return_type=MovesReply, allow_foreign=True)
    @abstractmethod
    def Moves(self) -> MovesReply:
        """The newest move of each logical unit of this host, by side."""
