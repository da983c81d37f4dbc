"""Each value of an entry stays in its field, whatever the value is."""

import socket
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st
from labkit import pace

from prtrace.linux.journal import SystemJournal, datagram


def read(raw):
    """The fields of a datagram, read here without prtrace's code."""
    fields = {}
    while raw:
        name, raw = raw.split(b"\n", 1)
        if b"=" in name:
            name, _, value = name.partition(b"=")
        else:
            length = int.from_bytes(raw[:8], "little")
            value, end, raw = raw[8 : 8 + length], raw[8 + length : 9 + length], raw[9 + length :]
            assert end == b"\n"
        assert name not in fields
        fields[name.decode()] = value.decode()
    return fields


@given(st.text(), st.text(alphabet="A=\n\0"))
def test_a_value_stays_in_its_field(first, second):
    fields = {"MESSAGE": first, "PRTRACE_LU": second, "PRIORITY": "5"}
    assert read(datagram(fields)) == {
        name: value.encode("utf-8", "backslashreplace").decode() for name, value in fields.items()
    }


def test_what_is_sent_arrives(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(str(tmp_path / "socket"))
        there.settimeout(pace.limit(5))
        with closing(SystemJournal(str(tmp_path / "socket"))) as journal:
            assert journal
            journal.send({"MESSAGE": "a\nb"})
        assert not journal
        assert read(there.recv(1000)) == {"MESSAGE": "a\nb"}


def test_a_journal_that_is_gone_or_does_not_read_is_not_waited_for(tmp_path):
    with closing(SystemJournal(str(tmp_path / "none"))) as journal:
        journal.send({"MESSAGE": "x"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(str(tmp_path / "socket"))
        with closing(SystemJournal(str(tmp_path / "socket"))) as journal:
            for _ in range(2000):
                journal.send({"MESSAGE": "x" * 1000})


def test_only_a_service_of_systemd_has_one(monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    journal = SystemJournal.of_service()
    assert not journal
    journal.send({"MESSAGE": "x"})
