"""A client of the proxy which shares no code with it: READ KEYS, as QEMU sends it.

    proxy_client.py SOCKET DEVICE

docs/interop/pr-helper.rst of QEMU has the protocol.
"""

import array
import os
import socket
import struct
import sys


def receive(connection: socket.socket, length: int) -> bytes:
    got = b""
    while len(got) < length:
        more = connection.recv(length - len(got))
        if not more:
            raise SystemExit("the proxy closed the connection")
        got += more
    return got


def main() -> None:
    path, device = sys.argv[1:]
    disk = os.open(device, os.O_RDWR)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(240)
        connection.connect(path)
        receive(connection, 4)
        connection.sendall(bytes(4))
        # A unit attention may wait: it is told once.
        for _ in range(4):
            status, length, reply = read_keys(connection, disk)
            if status != 2:
                break
        if status or length < 8:
            raise SystemExit(f"status {status}, {length} bytes")
        print("generation", struct.unpack(">I", reply[:4])[0])


def read_keys(connection: socket.socket, disk: int) -> tuple[int, int, bytes]:
    """Status, length and bytes of the answer."""
    cdb = bytes((0x5E, 0, 0, 0, 0, 0, 0, 0x20, 0)).ljust(16, b"\0")
    descriptors = array.array("i", (disk,))
    connection.sendmsg([cdb], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    status, length = struct.unpack(">iI", receive(connection, 8))
    receive(connection, 96)
    return status, length, receive(connection, length)


main()
