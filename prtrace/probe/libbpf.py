"""libbpf.so.1 by ctypes: this file and btf.py alone know that there is a C library.

Functions keep their C names; failures are OSError with the kernel's errno.  libbpf's own
messages (the verifier's log among them) are collected, not printed: log() hands them over.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Iterator
from ctypes import byref, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Final

from prtrace.errors import UnavailableError

_LIBRARY: Final = "libbpf.so.1"
_LOG_LIMIT: Final = 4000
"""Messages kept: a verifier log is one message a line, and its end is what matters."""

_DEBUG: Final = 2
"""LIBBPF_DEBUG: every relocation is one such message, a thousand for our object."""

BPF_ANY: Final = 0
BPF_NOEXIST: Final = 1


class bpf_map_info(ctypes.Structure):  # noqa: N801 - named as in C
    """The beginning of struct bpf_map_info (include/uapi/linux/bpf.h)."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", ctypes.c_char * 16),
    )


class bpf_link_info(ctypes.Structure):  # noqa: N801 - named as in C
    """The beginning of struct bpf_link_info."""

    _fields_ = (("type", c_uint32), ("id", c_uint32), ("prog_id", c_uint32))


class bpf_prog_info(ctypes.Structure):  # noqa: N801 - named as in C
    """struct bpf_prog_info up to recursion_misses (Linux 5.12)."""

    _fields_ = (("before", ctypes.c_char * 208), ("recursion_misses", c_uint64))


class bpf_prog_load_opts(ctypes.Structure):  # noqa: N801 - named as in C
    """struct bpf_prog_load_opts up to attach_btf_obj_fd (bpf/bpf.h)."""

    _fields_ = (
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_int),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_prog_fd", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
    )


class bpf_kprobe_opts(ctypes.Structure):  # noqa: N801 - named as in C
    """struct bpf_kprobe_opts up to retprobe (bpf/libbpf.h)."""

    _fields_ = (
        ("sz", c_size_t),
        ("bpf_cookie", c_uint64),
        ("offset", c_size_t),
        ("retprobe", c_bool),
    )


class bpf_test_run_opts(ctypes.Structure):  # noqa: N801 - named as in C
    """struct bpf_test_run_opts up to ctx_size_in (bpf/bpf.h)."""

    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
    )


_messages: list[str] = []
_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise UnavailableError(
            f"{_LIBRARY} cannot be loaded: {error}", hint="install it: apt install libbpf1"
        ) from None
    pointers = ("bpf_object__open_file", "bpf_object__next_program", "bpf_object__next_map",
                "bpf_program__attach", "bpf_program__attach_trace",
                "bpf_program__attach_kprobe_opts",
                "bpf_map__initial_value")  # fmt: skip
    for name in pointers:
        getattr(library, name).restype = c_void_p
    for name in ("bpf_program__name", "bpf_program__section_name", "bpf_map__name"):
        getattr(library, name).restype = c_char_p
    library.libbpf_set_print.restype = c_void_p
    library.libbpf_set_print(_collect)
    return library


# vsnprintf comes from the C library that this process already has.
_libc = ctypes.CDLL(None, use_errno=True)


def _collected(level: int, form: bytes, arguments: int) -> int:
    if level >= _DEBUG:
        return 0
    text = ctypes.create_string_buffer(1 << 16)
    _libc.vsnprintf(text, c_size_t(len(text)), form, c_void_p(arguments))
    _messages.append(text.value.decode("utf-8", "replace").rstrip("\n"))
    del _messages[:-_LOG_LIMIT]
    return 0


# ctypes does not keep a callback alive: this name does.
_collect = _PRINT(_collected)


_library: ctypes.CDLL | None = None


def lib() -> ctypes.CDLL:
    """The library, loaded at first use.  Raises UnavailableError where there is none."""
    global _library  # noqa: PLW0603 - one library a process, as the dynamic linker has it
    if _library is None:
        _library = _load()
    return _library


def log() -> list[str]:
    """Hand over what libbpf said since the last call."""
    said = _messages.copy()
    _messages.clear()
    return said


def trim() -> None:
    """Give memory that is free back to the kernel: libbpf had 6 MB of types while it loaded."""
    with contextlib.suppress(AttributeError):  # other C libraries do it by themselves
        _libc.malloc_trim(0)


def check(result: int, what: str) -> int:
    """Give back what a function returned that fails with a negative number.  Raises OSError."""
    # libbpf 1.x returns -errno; the syscall wrappers set errno as well.
    if result < 0:
        code = -result if result != -1 else ctypes.get_errno() or errno.EPERM
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def pointer(result: int | None, what: str) -> int:
    """Give back what a function returned that fails with a null pointer.  Raises OSError."""
    if not result:
        code = ctypes.get_errno() or errno.EINVAL
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


# --- objects -----------------------------------------------------------------------------


def bpf_object__open_file(path: str) -> int:
    """Open an object; nothing reaches the kernel yet."""
    return pointer(lib().bpf_object__open_file(os.fsencode(path), None), f"open {path}")


def bpf_object__load(obj: int) -> None:
    """Create the maps and load the programs that have autoload set."""
    # A KeyboardInterrupt in the callback above would be printed by ctypes, and forgotten.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        result = lib().bpf_object__load(c_void_p(obj))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    check(result, "load")


def bpf_object__close(obj: int) -> None:
    """Free an object; what is pinned stays."""
    lib().bpf_object__close(c_void_p(obj))


def programs(obj: int) -> Iterator[tuple[str, int]]:
    """(name, program) of each program in an object."""
    at = lib().bpf_object__next_program(c_void_p(obj), None)
    while at:
        yield lib().bpf_program__name(c_void_p(at)).decode(), at
        at = lib().bpf_object__next_program(c_void_p(obj), c_void_p(at))


def maps(obj: int) -> Iterator[tuple[str, int]]:
    """(name, map) of each map in an object."""
    at = lib().bpf_object__next_map(c_void_p(obj), None)
    while at:
        yield lib().bpf_map__name(c_void_p(at)).decode(), at
        at = lib().bpf_object__next_map(c_void_p(obj), c_void_p(at))


def bpf_program__section_name(program: int) -> str:
    """What the program attaches to, as the section says it."""
    name: bytes = lib().bpf_program__section_name(c_void_p(program))
    return name.decode()


def bpf_program__set_autoload(program: int, load: bool) -> None:
    """Take a program out of the next load."""
    check(lib().bpf_program__set_autoload(c_void_p(program), c_bool(load)), "set_autoload")


def bpf_program__fd(program: int) -> int:
    """The descriptor of a loaded program; it belongs to the object."""
    return check(lib().bpf_program__fd(c_void_p(program)), "program fd")


def bpf_program__attach(program: int) -> int:
    """Attach as the section says; a link, for bpf_link__fd and bpf_link__destroy."""
    return pointer(lib().bpf_program__attach(c_void_p(program)), "attach")


def bpf_program__attach_kprobe_opts(program: int, function: str, offset: int) -> int:
    """Attach to an instruction of a kernel function, offset bytes behind its start; a link."""
    options = bpf_kprobe_opts(sz=ctypes.sizeof(bpf_kprobe_opts), offset=offset)
    link = lib().bpf_program__attach_kprobe_opts(
        c_void_p(program), function.encode(), byref(options)
    )
    return pointer(link, "attach")


def bpf_program__attach_trace(program: int) -> int:
    """Attach to the kernel function or tracepoint that the program was loaded for; a link."""
    return pointer(lib().bpf_program__attach_trace(c_void_p(program)), "attach")


def bpf_link__fd(link: int) -> int:
    """A link's descriptor; it belongs to the link."""
    return check(lib().bpf_link__fd(c_void_p(link)), "link fd")


def bpf_link__destroy(link: int) -> None:
    """Detach a program, and free the link."""
    lib().bpf_link__destroy(c_void_p(link))


def bpf_map__fd(map_: int) -> int:
    """The descriptor of a loaded map; it belongs to the object."""
    return check(lib().bpf_map__fd(c_void_p(map_)), "map fd")


def bpf_map__set_max_entries(map_: int, entries: int) -> None:
    """Set the size of a map (of a ring: bytes) before load."""
    check(lib().bpf_map__set_max_entries(c_void_p(map_), c_uint32(entries)), "set_max_entries")


def bpf_map__reuse_fd(map_: int, fd: int) -> None:
    """Let a map of the object be one that exists already."""
    check(lib().bpf_map__reuse_fd(c_void_p(map_), c_int(fd)), "reuse_fd")


def bpf_map__initial_value(map_: int) -> memoryview:
    """The writable initial contents of a .rodata or .data map, before load."""
    size = c_size_t()
    at = pointer(lib().bpf_map__initial_value(c_void_p(map_), byref(size)), "initial value")
    return memoryview((ctypes.c_char * size.value).from_address(at)).cast("B")


def bpf_prog_test_run_opts(fd: int) -> None:
    """Run a BPF_PROG_TYPE_SYSCALL once, without arguments."""
    options = bpf_test_run_opts(sz=ctypes.sizeof(bpf_test_run_opts))
    check(lib().bpf_prog_test_run_opts(c_int(fd), byref(options)), "run")


# --- the kernel's maps and pins --------------------------------------------------------------


def bpf_obj_pin(fd: int, path: str) -> None:
    """Give a map, program or link a name in a bpf file system."""
    check(lib().bpf_obj_pin(c_int(fd), os.fsencode(path)), f"pin {path}")


def bpf_obj_get(path: str) -> int:
    """Open a pinned map, program or link."""
    return check(lib().bpf_obj_get(os.fsencode(path)), f"open {path}")


def bpf_map_get_info(fd: int) -> bpf_map_info:
    """What the kernel says of a map."""
    told = bpf_map_info()
    size = c_uint32(ctypes.sizeof(told))
    check(lib().bpf_obj_get_info_by_fd(c_int(fd), byref(told), byref(size)), "map info")
    return told


def bpf_link_get_prog_fd(fd: int) -> int:
    """A descriptor of a link's program, the caller's to close; takes CAP_SYS_ADMIN."""
    number = bpf_link_get_prog_id(fd)
    return check(lib().bpf_prog_get_fd_by_id(c_uint32(number)), "program of a link")


def bpf_link_get_prog_id(fd: int) -> int:
    """The number of a link's program, which no other has as long as the kernel runs."""
    told = bpf_link_info()
    size = c_uint32(ctypes.sizeof(told))
    check(lib().bpf_obj_get_info_by_fd(c_int(fd), byref(told), byref(size)), "link info")
    return int(told.prog_id)


def bpf_prog_exists(number: int) -> bool:
    """Whether the kernel has a program of this number; takes CAP_SYS_ADMIN.  Raises OSError."""
    try:
        fd = check(lib().bpf_prog_get_fd_by_id(c_uint32(number)), "program")
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    os.close(fd)
    return True


def bpf_prog_get_info(fd: int) -> bpf_prog_info:
    """What the kernel says of a program."""
    told = bpf_prog_info()
    size = c_uint32(ctypes.sizeof(told))
    check(lib().bpf_obj_get_info_by_fd(c_int(fd), byref(told), byref(size)), "program info")
    return told


def bpf_map_lookup_elem(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value at key, or None."""
    value = ctypes.create_string_buffer(value_size)
    try:
        check(lib().bpf_map_lookup_elem(c_int(fd), key, value), "map lookup")
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def bpf_map_update_elem(fd: int, key: bytes, value: bytes) -> None:
    """Set the value at key."""
    check(lib().bpf_map_update_elem(c_int(fd), key, value, c_uint64(BPF_ANY)), "map update")


def bpf_map_delete_elem(fd: int, key: bytes) -> None:
    """Remove key, if it is there."""
    result = lib().bpf_map_delete_elem(c_int(fd), key)
    if result != -errno.ENOENT:
        check(result, "map delete")


def bpf_map_create_elem(fd: int, key: bytes, value: bytes) -> bool:
    """Set the value at key if there is none; returns whether there was none."""
    result: int = lib().bpf_map_update_elem(c_int(fd), key, value, c_uint64(BPF_NOEXIST))
    if result == -errno.EEXIST:
        return False
    check(result, "map update")
    return True


def bpf_map_lookup_and_delete_elem(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Remove key; the value that it had to the end, or None.

    Of hashes since Linux 5.14 (3e87f192b405).
    """
    value = ctypes.create_string_buffer(value_size)
    result: int = lib().bpf_map_lookup_and_delete_elem(c_int(fd), key, value)
    if result == -errno.ENOENT:
        return None
    check(result, "map lookup and delete")
    return value.raw


def map_items(fd: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of a hash; the walk ends even when entries come and go meanwhile."""
    told = bpf_map_get_info(fd)
    key = ctypes.create_string_buffer(told.key_size)
    previous: ctypes.Array[ctypes.c_char] | None = None
    # A key that vanishes restarts the kernel's walk at the beginning: bound it.
    for _ in range(2 * told.max_entries):
        if lib().bpf_map_get_next_key(c_int(fd), previous, key) < 0:
            return
        previous = ctypes.create_string_buffer(key.raw, told.key_size)
        value = bpf_map_lookup_elem(fd, key.raw, told.value_size)
        if value is not None:
            yield key.raw, value


def address_of(memory: mmap.mmap) -> int:
    """Where writable memory is; valid as long as it is not closed."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def btf_available() -> bool:
    """Whether the running kernel describes its types."""
    return os.path.exists("/sys/kernel/btf/vmlinux")
