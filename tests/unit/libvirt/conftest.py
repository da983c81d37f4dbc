"""The socket that hook and plugin look for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from answerer import Answerer

from prtrace.libvirt.server import MoveServer
from prtrace.linux.unixsocket import Listener


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Answerer]:
    asked = Answerer()
    listener = Listener.bind(tmp_path / "io.prtrace.libvirt", mode=0o600)
    thread = Thread(target=MoveServer(listener, asked).run)
    thread.start()
    yield asked
    listener.socket.shutdown(2)
    thread.join()
    listener.close()
