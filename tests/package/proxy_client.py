"""A client of the proxy, or of qemu-pr-helper, which shares no code with prtrace.

    proxy_client.py SOCKET DEVICE                   READ KEYS, as QEMU sends it
    proxy_client.py SOCKET DEVICE CDB PARAMETER     a PERSISTENT RESERVE OUT, both in hex

docs/interop/pr-helper.rst of QEMU has the protocol.
"""

import array
import os
import socket
import struct
import sys

READ_KEYS = "5e000000000000200000"


def receive(connection: socket.socket, length: int) -> bytes:
    got = b""
    while len(got) < length:
        more = connection.recv(length - len(got))
        if not more:
            raise SystemExit("the proxy closed the connection")
        got += more
    return got


def main() -> None:
    path, device, *command = sys.argv[1:]
    cdb, parameter = (bytes.fromhex(word) for word in command or (READ_KEYS, ""))
    disk = os.open(device, os.O_RDWR)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(240)
        connection.connect(path)
        receive(connection, 4)
        connection.sendall(bytes(4))
        # A unit attention may wait: it is told once.
        for _ in range(4):
            status, length, reply = send(connection, disk, cdb, parameter)
            if status != 2:
                break
        if status or (length < 8 and not parameter):
            raise SystemExit(f"status {status}, {length} bytes")
        if not parameter:
            print("generation", struct.unpack(">I", reply[:4])[0])


def send(
    connection: socket.socket, disk: int, cdb: bytes, parameter: bytes
) -> tuple[int, int, bytes]:
    """Status, length and bytes of the answer."""
    descriptors = array.array("i", (disk,))
    padded = cdb.ljust(16, b"\0")
    connection.sendmsg([padded], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    connection.sendall(parameter)
    status, length = struct.unpack(">iI", receive(connection, 8))
    receive(connection, 96)
    return status, length, receive(connection, length)


main()
