"""From a message to the method it may call (deny by default), and replies as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import prtrace
from prtrace.api import idl
from prtrace.api.address import INTERFACE, MAX_CALL, MAX_CHANGE_CALL
from prtrace.api.interface import SERVICE, Fault, definitions
from prtrace.api.rights import Right, may
from prtrace.errors import (
    MalformedError,
    NoSuchDeviceError,
    PrtraceError,
    StoreError,
    UsageError,
)
from prtrace.linux.peer import Peer

RIGHTS: Final[Mapping[str, Right]] = {
    f"{SERVICE}.GetInfo": Right.READ,
    f"{SERVICE}.GetInterfaceDescription": Right.READ,
    f"{INTERFACE}.Show": Right.READ,
    f"{INTERFACE}.Events": Right.READ,
    f"{INTERFACE}.Status": Right.READ,
    f"{INTERFACE}.Resolve": Right.READ,
    # Sends nothing to any device.
    f"{INTERFACE}.Check": Right.READ,
    f"{INTERFACE}.Moves": Right.READ,
    # Sends PR IN.
    f"{INTERFACE}.Refresh": Right.CHANGE,
    f"{INTERFACE}.CheckFile": Right.CHANGE,
    # May send PR IN, which takes a unit attention away from whoever waits for it.
    f"{INTERFACE}.Save": Right.CHANGE,
    f"{INTERFACE}.Prepare": Right.CHANGE,
    f"{INTERFACE}.Load": Right.CHANGE,
    f"{INTERFACE}.LateCommit": Right.CHANGE,
    f"{INTERFACE}.Release": Right.CHANGE,
    f"{INTERFACE}.Rollback": Right.CHANGE,
    f"{INTERFACE}.Finish": Right.CHANGE,
}
"""What each method needs; one that is not here may be called by nobody."""

_SEVERAL_REPLIES: Final = frozenset(
    f"{INTERFACE}.{method}" for method in ("Events", "Prepare", "Load", "LateCommit", "Rollback")
)
"""Methods that are called with "more"; the definition cannot say so."""

_compact: Final = json.JSONEncoder(separators=(",", ":")).encode
"""JSON without blanks; json.dumps() would make an encoder for each event."""


class Call(NamedTuple):
    """A call that its peer may make."""

    method: str
    """The full name."""
    parameters: dict[str, Any]
    """Checked against the interface's declaration."""
    oneway: bool
    """Whether no reply is wanted."""
    more: bool
    """Whether several replies may come."""
    peer_may: Right
    """The most that the peer may do, whatever this method needs."""
    behind: bool = False
    """Whether the agent has not yet come to all that had happened when the call came, and the call
    has waited long enough."""


class Refusal(Exception):  # noqa: N818 - an answer for the peer, not a fault of ours
    """A call is answered with an error; reply is the message, b"" where none is wanted."""

    def __init__(
        self, fault: Fault, parameters: Mapping[str, Any], *, oneway: bool = False
    ) -> None:
        super().__init__(fault.value)
        document = {"error": fault.value, "parameters": parameters}
        self.reply = b"" if oneway else _message(document)


class Calls:
    """Who may call what."""

    __slots__ = ("_admin_gid",)

    def __init__(self, admin_gid: int | None = None) -> None:
        self._admin_gid = admin_gid

    def longest(self, peer: Peer) -> int:
        """Bytes of a call that peer may make, its NUL included."""
        return MAX_CHANGE_CALL if self.may_change(peer) else MAX_CALL

    def may_change(self, peer: Peer) -> bool:
        """Whether peer may call what changes something."""
        return may(peer, Right.CHANGE, self._admin_gid)

    def _most(self, peer: Peer) -> Right:
        return Right.CHANGE if self.may_change(peer) else Right.READ

    def parse(self, message: bytes, peer: Peer) -> Call:
        """The call that message (without its NUL) makes.

        Raises Refusal where it makes none, and where peer may not make it.
        """
        call = _form(message)
        interface, _, name = call.method.rpartition(".")
        definition = definitions().get(interface)
        if definition is None:
            raise _refuse(call, Fault.INTERFACE_NOT_FOUND, interface=interface)
        method = definition.methods.get(name)
        if method is None:
            raise _refuse(call, Fault.METHOD_NOT_FOUND, method=name)
        right = RIGHTS.get(call.method)
        if right is None or not may(peer, right, self._admin_gid):
            raise _refuse(
                call,
                Fault.PERMISSION_DENIED,
                message=f"uid {peer.uid} may not call {call.method}",
                hint="be root, or a member of the agent's --admin-group",
            )
        if call.method in _SEVERAL_REPLIES and not call.more:
            raise _refuse(call, Fault.EXPECTED_MORE)
        try:
            parameters = idl.check(method.takes, call.parameters)
        except MalformedError as error:
            raise _refuse(call, Fault.INVALID_PARAMETER, parameter=error.what) from error
        for parameter, value in parameters.items():
            # No number that this interface takes is below 0.
            if isinstance(value, int) and value < 0:
                raise _refuse(call, Fault.INVALID_PARAMETER, parameter=parameter)
        return call._replace(parameters=parameters, peer_may=self._most(peer))

    def describe(self, call: Call) -> dict[str, Any]:
        """The answer to a method of org.varlink.service; Refusal for an unknown interface."""
        if call.method == f"{SERVICE}.GetInfo":
            return {
                "vendor": "prtrace",
                "product": "prtrace",
                "version": prtrace.__version__,
                "url": "",
                "interfaces": sorted(definitions()),
            }
        wanted = call.parameters["interface"]
        definition = definitions().get(wanted)
        if definition is None:
            raise _refuse(call, Fault.INTERFACE_NOT_FOUND, interface=wanted)
        return {"description": definition.text}


def _form(message: bytes) -> Call:
    """The call that message has the form of; whether it may be made is not looked at."""
    try:
        document = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise _no_call(str(error)) from error
    if not isinstance(document, dict):
        raise _no_call("a call is an object")
    method, parameters = document.get("method"), document.get("parameters", {})
    if not isinstance(method, str) or not isinstance(parameters, dict):
        raise _no_call("method is a string, parameters an object")
    flags = [document.get(name, False) for name in ("oneway", "more", "upgrade")]
    if not all(isinstance(flag, bool) for flag in flags):
        raise _no_call("oneway, more and upgrade are true or false")
    oneway, more, upgrade = flags
    if upgrade or (oneway and more):
        raise _no_call("upgrade is not served, and oneway excludes more")
    return Call(method, parameters, oneway, more, Right.READ)


def _no_call(why: str) -> Refusal:
    text = f"no Varlink call: {why}"[:200]
    return Refusal(Fault.INVALID_ARGUMENT, {"message": text, "hint": ""})


def _refuse(call: Call, fault: Fault, **parameters: str) -> Refusal:
    return Refusal(fault, parameters, oneway=call.oneway)


def refusal(error: PrtraceError, *, oneway: bool = False) -> Refusal:
    """The answer for an error of the agent's."""
    match error:
        case NoSuchDeviceError():
            fault = Fault.NO_SUCH_DEVICE
        case UsageError() | MalformedError():
            fault = Fault.INVALID_ARGUMENT
        case StoreError():
            fault = Fault.STORE_FAILED
        case _:
            fault = Fault.FAILED
    return Refusal(fault, {"message": error.message, "hint": error.hint}, oneway=oneway)


def too_long(longest: int) -> Refusal:
    """The answer to a call of more than longest bytes; the connection ends with it."""
    text = f"a call has at most {longest} bytes"
    return Refusal(Fault.INVALID_ARGUMENT, {"message": text, "hint": ""})


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
