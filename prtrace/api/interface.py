"""The Varlink interface io.prtrace: its definition, and the errors that it knows.

prtrace/schema/io.prtrace.varlink is the contract.  The server checks calls against it
(prtrace.api.calls) and hands it out as it is (org.varlink.service.GetInterfaceDescription).
"""

from __future__ import annotations

import enum
from functools import cache
from pathlib import Path
from typing import Final

from prtrace.api import idl
from prtrace.api.address import INTERFACE

SERVICE: Final = "org.varlink.service"
"""Every Varlink server has this interface.  Source: https://varlink.org/Service."""

_SERVICE_DEFINITION: Final = """\
# What every Varlink server tells of itself.
interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, \
interfaces: []string)

# The definition of an interface, as it was written.
method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)

error MethodNotFound (method: string)

error MethodNotImplemented (method: string)

# A parameter has the wrong type, is missing, or is not in the definition.
error InvalidParameter (parameter: string)

error PermissionDenied ()

# The method has several replies; call it with "more": true.
error ExpectedMore ()
"""


class Fault(enum.Enum):
    """The full names of errors."""

    NO_SUCH_DEVICE = f"{INTERFACE}.NoSuchDevice"
    INVALID_ARGUMENT = f"{INTERFACE}.InvalidArgument"
    PERMISSION_DENIED = f"{INTERFACE}.PermissionDenied"
    STORE_FAILED = f"{INTERFACE}.StoreFailed"
    BUSY = f"{INTERFACE}.Busy"
    FAILED = f"{INTERFACE}.Failed"
    NOT_MOVABLE = f"{INTERFACE}.NotMovable"
    UNDER_WAY = f"{INTERFACE}.UnderWay"
    INTERFACE_NOT_FOUND = f"{SERVICE}.InterfaceNotFound"
    METHOD_NOT_FOUND = f"{SERVICE}.MethodNotFound"
    INVALID_PARAMETER = f"{SERVICE}.InvalidParameter"
    EXPECTED_MORE = f"{SERVICE}.ExpectedMore"


@cache
def definitions() -> dict[str, idl.Definition]:
    """The interfaces that are served, by name."""
    # importlib.resources takes as long to import as a tenth of this whole package.
    shipped = Path(__file__).parents[1] / "schema" / f"{INTERFACE}.varlink"
    read = (idl.parse(shipped.read_text()), idl.parse(_SERVICE_DEFINITION))
    return {definition.name: definition for definition in read}
