"""The doors through which the walk sends its commands: every one that the kernel has.

SG_IO version 3 on sg and block nodes (dm-multipath's included) is prtrace.linux.sgio's; version 4
on bsg nodes and the IOC_PR ioctls are written out here, apart from the product.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass

from prtrace.errors import PrtraceError
from prtrace.linux.sgio import SgDevice
from prtrace.model import Action, ReservationType
from prtrace.scsi.cdb import PrOutCdb

_SG_IO = 0x2285
_SG_IO_V4 = struct.Struct("=iIIIQQIIIIQIIIIQQIIQIIIIIIIIiiQII")  # include/uapi/linux/bsg.h
assert _SG_IO_V4.size == 160
_GUARD = ord("Q")
_TIMEOUT_MS = 60_000
_SENSE = 96

# include/uapi/linux/pr.h
_TYPES = {
    ReservationType.WE: 1,
    ReservationType.EA: 2,
    ReservationType.WERO: 3,
    ReservationType.EARO: 4,
    ReservationType.WEAR: 5,
    ReservationType.EAAR: 6,
}
_IGNORE_KEY = 1
_READ_KEYS, _READ_RESERVATION = 206, 207  # from 7.0 on


@dataclass(frozen=True, slots=True)
class PrOutCommand:
    """What to send: a service action with its parameter list; abort only where it is safe."""

    action: Action
    key: int
    sa_key: int
    kind: ReservationType | None
    parameter: bytes

    @property
    def cdb(self) -> bytes:
        return PrOutCdb(self.action, type=self.kind, parameter_length=len(self.parameter)).build()

    def __str__(self) -> str:
        kind = "-" if self.kind is None else self.kind.name
        more = self.parameter[20:24].hex() + "+" * (len(self.parameter) - 24)
        return f"{self.action.value} rk={self.key:#x} sark={self.sa_key:#x} {kind} {more}"


class Doors:
    """Every node is opened once and stays open: closing a block node can rescan partitions."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._devices: dict[str, SgDevice] = {}
        self._fds: dict[tuple[str, int], int] = {}

    def __enter__(self) -> Doors:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def device(self, node: str) -> SgDevice:
        if node not in self._devices:
            self._devices[node] = self._stack.enter_context(SgDevice(node))
        return self._devices[node]

    def fd(self, node: str, flags: int = os.O_RDWR) -> int:
        if (node, flags) not in self._fds:
            self._fds[node, flags] = os.open(node, flags | os.O_CLOEXEC)
            self._stack.callback(os.close, self._fds[node, flags])
        return self._fds[node, flags]

    def sg_io(self, node: str, command: PrOutCommand) -> str:
        """A PR OUT by SG_IO on an sg, block or dm node."""
        try:
            return self.device(node).send(command.cdb, command.parameter).text
        except PrtraceError as error:
            return error.message

    def bsg(self, node: str, cdb: bytes, out: bytes = b"", room: int = 0) -> str:
        """Any command by SG_IO version 4 on a bsg node."""
        request = ctypes.create_string_buffer(cdb, len(cdb))
        sense = ctypes.create_string_buffer(_SENSE)
        dout = ctypes.create_string_buffer(out, max(len(out), 1))
        # LIO's READ FULL STATUS writes behind a short allocation length (test_deviations.py).
        memory = mmap.mmap(-1, room + 64)
        din = ctypes.c_char.from_buffer(memory)
        header = bytearray(
            _SG_IO_V4.pack(
                *(_GUARD, 0, 0, len(cdb), ctypes.addressof(request), 0, 0, 0, 0),
                *(_SENSE, ctypes.addressof(sense), 0, len(out), 0, room),
                *(ctypes.addressof(dout) if out else 0, ctypes.addressof(din) if room else 0),
                *(_TIMEOUT_MS, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
            )
        )
        try:
            fcntl.ioctl(self.fd(node), _SG_IO, header)
        except OSError as error:
            return os.strerror(error.errno or 0)
        status = _SG_IO_V4.unpack(header)[23]
        return f"status {status:#04x}"

    def ioc_pr(self, node: str, command: PrOutCommand) -> str:
        """A PR OUT by the IOC_PR ioctl that stands for it."""
        kind = 0 if command.kind is None else _TYPES[command.kind]
        key, sa_key = command.key, command.sa_key
        match command.action:
            case Action.REGISTER | Action.REGISTER_AND_IGNORE:
                ignore = command.action is Action.REGISTER_AND_IGNORE
                number = 200
                packed = struct.pack("=QQII", key, sa_key, _IGNORE_KEY if ignore else 0, 0)
            case Action.RESERVE | Action.RELEASE:
                number = 201 if command.action is Action.RESERVE else 202
                packed = struct.pack("=QII", key, kind, 0)
            case Action.PREEMPT | Action.PREEMPT_AND_ABORT:
                number = 203 if command.action is Action.PREEMPT else 204
                packed = struct.pack("=QQII", key, sa_key, kind, 0)
            case Action.CLEAR:
                number, packed = 205, struct.pack("=QII", key, 0, 0)
            case _:
                raise AssertionError(f"no ioctl stands for {command.action}")
        return self._ioctl(node, 1 << 30 | len(packed) << 16 | ord("p") << 8 | number, packed)

    def ioc_pr_read(self, node: str, *, keys: bool) -> str:
        """READ KEYS or READ RESERVATION by ioctl: ENOTTY on kernels without."""
        if keys:
            room = ctypes.create_string_buffer(8 * 16)
            number, way = _READ_KEYS, 3
            packed = struct.pack("=IIQ", 0, 16, ctypes.addressof(room))
        else:
            packed, number, way = bytes(16), _READ_RESERVATION, 2
        return self._ioctl(node, way << 30 | len(packed) << 16 | ord("p") << 8 | number, packed)

    def _ioctl(self, node: str, request: int, packed: bytes) -> str:
        try:
            return f"ioctl {fcntl.ioctl(self.fd(node), request, bytearray(packed)):#x}"
        except OSError as error:
            return os.strerror(error.errno or 0)


def sg_persist(node: str, command: PrOutCommand) -> str:
    """A PR OUT by sg_persist: a program of its own, for the actions with a basic list."""
    options = {
        Action.REGISTER: "--register",
        Action.REGISTER_AND_IGNORE: "--register-ignore",
        Action.RESERVE: "--reserve",
        Action.RELEASE: "--release",
        Action.CLEAR: "--clear",
        Action.PREEMPT: "--preempt",
    }
    kind = 0 if command.kind is None else int(command.kind)
    done = subprocess.run(
        [
            *("sg_persist", "--no-inquiry", "--out", options[command.action]),
            *(f"--param-rk={command.key:x}", f"--param-sark={command.sa_key:x}"),
            *(f"--prout-type={kind:x}", node),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    return f"sg_persist {done.returncode}"
