"""The kernel's types by libbpf's functions, and what programs attach to by their numbers."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ctypes import byref, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Final, NamedTuple

from prtrace.probe.libbpf import bpf_prog_load_opts, check, lib, pointer

_TRACING_PROGRAM: Final = 26
_TRACING: Final = {b"tp_btf+": 23, b"fentry+": 24, b"fexit+": 25}
"""BPF_PROG_TYPE_TRACING; section -> attach type (include/uapi/linux/bpf.h)."""

TYPEDEF: Final = 8
FUNCTION: Final = 12
_POINTER: Final = 2
_ARRAY: Final = 3
_STRUCT: Final = 4
"""Kinds of types (include/uapi/linux/btf.h)."""

_PREPARE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, ctypes.c_long)


class bpf_btf_info(ctypes.Structure):  # noqa: N801 - named as in C
    """struct bpf_btf_info up to kernel_btf (Linux 5.11)."""

    _fields_ = (
        ("btf", c_uint64),
        ("btf_size", c_uint32),
        ("id", c_uint32),
        ("name", c_uint64),
        ("name_len", c_uint32),
        ("kernel_btf", c_uint32),
    )


class libbpf_prog_handler_opts(ctypes.Structure):  # noqa: N801 - named as in C
    """struct libbpf_prog_handler_opts (bpf/libbpf.h)."""

    _fields_ = (
        ("sz", c_size_t),
        ("cookie", ctypes.c_long),
        ("prog_setup_fn", c_void_p),
        ("prog_prepare_load_fn", c_void_p),
        ("prog_attach_fn", c_void_p),
    )


class Target(NamedTuple):
    """What a program attaches to: the number of a type, and of whose types it is one.

    btf_fd: 0 for the kernel proper, else a descriptor of a module's types.
    """

    btf_id: int
    btf_fd: int


def _returning_pointer(name: str) -> Callable[..., int | None]:
    function = getattr(lib(), name)
    function.restype = c_void_p
    called: Callable[..., int | None] = function
    return called


def btf__load_vmlinux_btf() -> int:
    """Types of the kernel proper; for btf__free."""
    return pointer(_returning_pointer("btf__load_vmlinux_btf")(), "types of the kernel")


def btf__load_module_btf(module: str, vmlinux: int) -> int:
    """Types of the kernel proper and of a module; for btf__free, before vmlinux."""
    load = _returning_pointer("btf__load_module_btf")
    loaded = load(os.fsencode(module), c_void_p(vmlinux))
    return pointer(loaded, f"types of {module}")


def btf__find_by_name_kind(btf: int, name: str, kind: int) -> int | None:
    """The number of a type."""
    found: int = lib().btf__find_by_name_kind(c_void_p(btf), name.encode(), c_uint32(kind))
    return found if found > 0 else None


def btf__type_cnt(btf: int) -> int:
    """The first number that is no type's."""
    count: int = lib().btf__type_cnt(c_void_p(btf))
    return count


def btf__free(btf: int) -> None:
    """Let go of types."""
    lib().btf__free(c_void_p(btf))


def btf_of_module(module: str) -> int:
    """A descriptor of a module's types in the kernel, the caller's to close."""
    name = ctypes.create_string_buffer(64)
    number = c_uint32(0)
    while lib().bpf_btf_get_next_id(number, byref(number)) == 0:
        fd = check(lib().bpf_btf_get_fd_by_id(number), "types by number")
        told = bpf_btf_info(name=ctypes.addressof(name), name_len=len(name))
        size = c_uint32(ctypes.sizeof(told))
        result = lib().bpf_obj_get_info_by_fd(c_int(fd), byref(told), byref(size))
        if result == 0 and told.kernel_btf and name.value == module.encode():
            return fd
        os.close(fd)
    raise OSError(errno.ENOENT, f"types of {module}: {os.strerror(errno.ENOENT)}")


class _Type(ctypes.Structure):
    """struct btf_type; what the kind brings follows it."""

    _fields_ = (("name_off", c_uint32), ("info", c_uint32), ("type", c_uint32))

    @property
    def kind(self) -> int:
        return int(self.info) >> 24 & 0x1F

    @property
    def count(self) -> int:
        return int(self.info) & 0xFFFF


class _Member(ctypes.Structure):
    """struct btf_member; struct btf_param is its first two."""

    _fields_ = (("name_off", c_uint32), ("type", c_uint32), ("offset", c_uint32))


def _type(btf: int, number: int) -> tuple[int, _Type]:
    at = pointer(_returning_pointer("btf__type_by_id")(c_void_p(btf), c_uint32(number)), "type")
    return at, _Type.from_address(at)


def _name(btf: int, offset: int) -> str:
    function = lib().btf__name_by_offset
    function.restype = ctypes.c_char_p
    return (function(c_void_p(btf), c_uint32(offset)) or b"").decode()


def member_is_array(btf: int, structure: str, member: str) -> bool | None:
    """Whether a structure's member is an array; None where it has no such member."""
    number = btf__find_by_name_kind(btf, structure, _STRUCT)
    if number is None:
        return None
    at, told = _type(btf, number)
    members = (_Member * told.count).from_address(at + ctypes.sizeof(_Type))
    for each in members:
        if _name(btf, each.name_off) == member:
            return _type(btf, each.type)[1].kind == _ARRAY
    return None


def parameters(btf: int, function: str) -> int:
    """How many parameters a function has; 0 where there is no such function."""
    number = btf__find_by_name_kind(btf, function, FUNCTION)
    return 0 if number is None else _type(btf, _type(btf, number)[1].type)[1].count


def first_parameter(btf: int, function: str) -> str:
    """The structure that a function's first argument points at, "" for anything else."""
    number = btf__find_by_name_kind(btf, function, FUNCTION)
    if number is None:
        return ""
    at, prototype = _type(btf, _type(btf, number)[1].type)
    if not prototype.count:
        return ""
    parameter = _Member.from_address(at + ctypes.sizeof(_Type))
    _, given = _type(btf, parameter.type)
    if given.kind != _POINTER:
        return ""
    return _name(btf, _type(btf, given.type)[1].name_off)


@contextmanager
def attaching(targets: Mapping[str, Target]) -> Iterator[None]:
    """Within, objects are opened and loaded with the targets named here, by program.

    See prtrace/probe/targets.py for why.
    """
    _register()
    _targets.update(targets)
    try:
        yield
    finally:
        _targets.clear()


_targets: Final[dict[str, Target]] = {}


def _prepared(program: int, options: int, _cookie: int) -> int:
    target = _targets.get(lib().bpf_program__name(c_void_p(program)).decode())
    if target is None:
        return -errno.ENOENT
    given = bpf_prog_load_opts.from_address(options)
    given.attach_btf_id, given.attach_btf_obj_fd = target.btf_id, target.btf_fd
    return 0


# ctypes does not keep a callback alive: this name does.
_prepare = _PREPARE(_prepared)


@functools.cache
def _register() -> None:
    """Let libbpf ask _prepare, as long as this process lives.

    With libbpf before 1.3, whoever unregisters the last section leaves a list that is freed
    (libbpf_unregister_prog_handler, realloc() to nothing); the next to register frees it again.
    """
    handled = libbpf_prog_handler_opts(
        sz=ctypes.sizeof(libbpf_prog_handler_opts),
        prog_prepare_load_fn=ctypes.cast(_prepare, c_void_p),
    )
    for section, attach_type in _TRACING.items():
        number = lib().libbpf_register_prog_handler(
            section, _TRACING_PROGRAM, attach_type, byref(handled)
        )
        check(number, "register")
