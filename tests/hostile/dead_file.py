"""A file that never answers: on a FUSE file system whose server takes INIT, LOOKUP, OPEN, no more.

Needs root and /dev/fuse.  Nothing of prtrace is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

_MNT_FORCE, _MNT_DETACH = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def dead_file(folder: Path) -> Iterator[int]:
    """A descriptor of the file."""
    place = folder / "fuse"
    place.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    subprocess.run(
        ["mount", "-i", "-t", "fuse", "-o", options, "dead", str(place)],
        check=True,
        pass_fds=[device],
    )
    threading.Thread(target=_serve, args=(device,), daemon=True).start()
    fd = os.open(place / "file", os.O_RDWR)
    try:
        yield fd
    finally:
        # Forced: ends every wait for the server.  No child does it: closing its copy of fd
        # would wait as well.
        path = os.fsencode(place)
        if _libc.umount2(path, _MNT_FORCE) and _libc.umount2(path, _MNT_DETACH):
            raise OSError(ctypes.get_errno(), "umount2")
        with contextlib.suppress(OSError):  # of flush, from a server that is gone
            os.close(fd)
        os.close(device)


def _serve(device: int) -> None:
    while True:
        try:
            request = os.read(device, 1 << 17)
        except OSError:
            return
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        match opcode:
            case 26:  # INIT
                body = struct.pack(
                    "<IIIIHHIIHHI", 7, 31, 65536, 0, 12, 10, 65536, 1, 32, 0, 0
                ) + bytes(28)
            case 3 if node == 1:  # GETATTR of the root
                body = struct.pack("<QII", 0, 0, 0) + _attributes(1)
            case 1:  # LOOKUP; attributes that are out of date at once
                body = struct.pack("<QQQQII", 2, 0, 3600, 0, 0, 0) + _attributes(2)
            case 14:  # OPEN
                body = struct.pack("<QII", 1, 0, 0)
            case _:
                continue  # GETATTR of the file, FLUSH, RELEASE: silence
        os.write(device, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)


def _attributes(node: int) -> bytes:
    mode = 0o40755 if node == 1 else 0o100644
    # ino, size, blocks, 3 times, 3 parts of them, mode, nlink, uid, gid, rdev, ...
    return struct.pack("<6Q10I", node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
