"""From a message to the method it may call (deny by default), and replies as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from asyncvarlink import (
    TypedVarlinkErrorReply,
    VarlinkInterface,
    VarlinkInterfaceRegistry,
    VarlinkMethodCall,
)
from asyncvarlink.conversion import ConversionError
from asyncvarlink.error import VarlinkErrorReply
from asyncvarlink.serviceinterface import InvalidParameter, VarlinkServiceInterface

import prtrace
from prtrace.api.address import INTERFACE, MAX_CALL, MAX_CHANGE_CALL
from prtrace.api.interface import (
    Failed,
    Interface,
    InvalidArgument,
    Message,
    NoSuchDevice,
    PermissionDenied,
    StoreFailed,
)
from prtrace.api.peer import Peer, Right
from prtrace.errors import (
    MalformedError,
    NoSuchDeviceError,
    PrtraceError,
    StoreError,
    UsageError,
)

_SERVICE: Final = "org.varlink.service"

RIGHTS: Final[Mapping[str, Right]] = {
    f"{_SERVICE}.GetInfo": Right.READ,
    f"{_SERVICE}.GetInterfaceDescription": Right.READ,
    f"{INTERFACE}.Show": Right.READ,
    f"{INTERFACE}.Events": Right.READ,
    f"{INTERFACE}.Status": Right.READ,
    f"{INTERFACE}.Resolve": Right.READ,
    # Sends nothing to any device.
    f"{INTERFACE}.Check": Right.READ,
    # May send PR IN, which takes a unit attention away from whoever waits for it.
    f"{INTERFACE}.Save": Right.CHANGE,
    f"{INTERFACE}.Load": Right.CHANGE,
    f"{INTERFACE}.Rollback": Right.CHANGE,
    f"{INTERFACE}.Finish": Right.CHANGE,
}
"""What each method needs; one that is not here may be called by nobody."""

_INTEGERS: Final = 1 << 63
_compact: Final = json.JSONEncoder(separators=(",", ":")).encode
"""JSON without blanks; json.dumps() would make an encoder for each event."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that its peer may make.

    method: the full name.  parameters: checked against the interface's declaration.  oneway:
    no reply is wanted.  more: several replies may come.  peer_may: the most that its peer may
    do, whatever this method needs.
    """

    method: str
    parameters: dict[str, Any]
    oneway: bool
    more: bool
    peer_may: Right


class Refusal(Exception):  # noqa: N818 - an answer for the peer, not a fault of ours
    """A call is answered with an error; reply is the message, b"" where none is wanted."""

    def __init__(self, error: VarlinkErrorReply, *, oneway: bool = False) -> None:
        super().__init__(error.name)
        self.reply = b"" if oneway else _message(error.toreply().tojson())


class Calls:
    """The interfaces that are served, and who may call what."""

    __slots__ = ("_admin_gid", "_registry")

    def __init__(self, admin_gid: int | None = None) -> None:
        self._admin_gid = admin_gid
        self._registry = VarlinkInterfaceRegistry()
        self._registry.register_interface(
            VarlinkServiceInterface("prtrace", "prtrace", prtrace.__version__, "", self._registry)
        )
        # Its methods are declarations (hence the cast); the server answers them.
        self._registry.register_interface(cast("type[VarlinkInterface]", Interface)())

    def longest(self, peer: Peer) -> int:
        """Bytes of a call that peer may make, its NUL included."""
        return MAX_CHANGE_CALL if self._most(peer) is Right.CHANGE else MAX_CALL

    def _most(self, peer: Peer) -> Right:
        return Right.CHANGE if peer.may(Right.CHANGE, self._admin_gid) else Right.READ

    def parse(self, message: bytes, peer: Peer) -> Call:
        """The call that message (without its NUL) makes.

        Raises Refusal where it makes none, and where peer may not make it.
        """
        try:
            document = json.loads(message)
            call = VarlinkMethodCall.fromjson(document)
        except (ValueError, TypeError, RecursionError) as error:
            raise Refusal(
                InvalidArgument({"message": f"no Varlink call: {error}"[:200], "hint": ""})
            ) from error
        try:
            _, signature = self._registry.lookup_method(call)
            # What was looked up decides, not what the message looks like.
            right = RIGHTS.get(call.method)
            if right is None or not peer.may(right, self._admin_gid):
                raise PermissionDenied(
                    {
                        "message": f"uid {peer.uid} may not call {call.method}",
                        "hint": "be root, or a member of the agent's --admin-group",
                    }
                )
            parameters = signature.parameter_type.fromjson(call.parameters)
        except ConversionError as error:
            where = str(error.location[0]) if error.location else ""
            raise Refusal(InvalidParameter({"parameter": where}), oneway=call.oneway) from error
        except VarlinkErrorReply as error:
            raise Refusal(error, oneway=call.oneway) from error
        for name, value in parameters.items():
            if isinstance(value, int) and not 0 <= value < _INTEGERS:
                raise Refusal(InvalidParameter({"parameter": name}), oneway=call.oneway)
        return Call(call.method, parameters, call.oneway, call.more, self._most(peer))

    def describe(self, call: Call) -> dict[str, Any]:
        """The answer to a method of org.varlink.service; Refusal for an unknown interface."""
        service = self._registry[_SERVICE]
        method = getattr(service, call.method.rpartition(".")[2])
        try:
            return dict(method(**call.parameters).parameters)
        except VarlinkErrorReply as error:
            raise Refusal(error, oneway=call.oneway) from error


def refusal(error: PrtraceError, *, oneway: bool = False) -> Refusal:
    """The answer for an error of the agent's."""
    text: Message = {"message": error.message, "hint": error.hint}
    answer: TypedVarlinkErrorReply
    match error:
        case NoSuchDeviceError():
            answer = NoSuchDevice(text)
        case UsageError() | MalformedError():
            answer = InvalidArgument(text)
        case StoreError():
            answer = StoreFailed(text)
        case _:
            answer = Failed(text)
    return Refusal(answer, oneway=oneway)


def reply(parameters: Mapping[str, Any]) -> bytes:
    """The last (or only) reply to a call."""
    return _message({"parameters": parameters})


def steps_reply(lu: str, what: str) -> bytes:
    """A reply that tells one step of a move that goes on."""
    return _message({"continues": True, "parameters": {"steps": [{"lu": lu, "what": what}]}})


def event_json(event: Mapping[str, Any]) -> bytes:
    """One event as events_reply() joins them."""
    return _compact(event).encode()


def events_reply(events: list[bytes]) -> bytes:
    """A reply of a stream that goes on."""
    return b'{"continues":true,"parameters":{"events":[' + b",".join(events) + b"]}}\0"


def _message(document: Mapping[str, Any]) -> bytes:
    return _compact(document).encode() + b"\0"
