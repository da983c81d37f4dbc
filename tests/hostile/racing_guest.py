"""A guest that does as it is told: a process of its own, which the proxy takes for one guest.

Reads lines "SOCKET NODE ACTION KEY SERVICE_ACTION_KEY" (the numbers in hexadecimal), sends that
PERSISTENT RESERVE OUT, again where a unit attention comes first, and prints the status and the
additional sense code in hexadecimal; "gone" where the connection ended without an answer.
Nothing of prtrace is used.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import sys
import time

REPLY = struct.Struct(">ii96s")
UNIT_ATTENTION = 6


def exchange(path: str, fd: int, action: int, key: int, sa_key: int) -> str:
    cdb = bytes((0x5F, action, 0, 0, 0, 0, 0, 0, 24)) + bytes(7)
    parameter = struct.pack(">QQ8x", key, sa_key)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(120)
        for _ in range(600):  # while it is restarted
            try:
                sock.connect(path)
                break
            except (ConnectionRefusedError, FileNotFoundError):
                time.sleep(0.1)
        sock.sendall(bytes(4))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        sock.sendmsg([cdb], rights)
        sock.sendall(parameter)
        if len(sock.recv(4, socket.MSG_WAITALL)) < 4:
            return "gone"
        got = sock.recv(REPLY.size, socket.MSG_WAITALL)
    if len(got) < REPLY.size:
        return "gone"
    status, _, sense = REPLY.unpack(got)
    if status == 2 and sense[2] & 0xF == UNIT_ATTENTION:
        return "again"
    return f"{status:02x} {sense[12]:02x}{sense[13]:02x}"


def main() -> None:
    for line in sys.stdin:
        path, node, *numbers = line.split()
        fd = os.open(node, os.O_RDWR | os.O_NONBLOCK)
        try:
            answer = "again"
            while answer == "again":
                answer = exchange(path, fd, *(int(number, 16) for number in numbers))
        except OSError:
            answer = "gone"
        finally:
            os.close(fd)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
