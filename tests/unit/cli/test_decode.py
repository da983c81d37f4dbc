"""decode: from arguments, files and standard input."""

import json
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"
CDB = "5f 00 05 00 00 00 00 00 18 00"


@pytest.mark.parametrize(
    "arguments", [[CDB], CDB.split(), [CDB.replace(" ", ":")], [CDB.replace(" ", "")]], ids=str
)
def test_hex_in_every_spelling(prtrace, arguments):
    done = prtrace("decode", *arguments)
    assert done.returncode == 0
    assert done.stdout.startswith("PERSISTENT RESERVE OUT\n  service action: REGISTER\n")


def test_hex_files(prtrace):
    done = prtrace("decode", "--as", "keys", FIXTURES / "two-nexuses.keys.hex", "--json")
    found = json.loads(done.stdout)
    assert found["kind"] == "keys"
    assert found["schema"] == "prtrace.decode/1"
    assert len(found["fields"][-1]["items"]) == 2


def test_files_of_bytes_and_of_logs(prtrace, tmp_path):
    raw = bytes.fromhex(CDB)
    (tmp_path / "raw").write_bytes(raw)
    (tmp_path / "text").write_text(raw.hex(":") + "  # seen at 12:03\n")
    shown = {prtrace("decode", tmp_path / name).stdout for name in ("raw", "text")}
    assert len(shown) == 1
    assert "REGISTER" in shown.pop()


def test_standard_input(prtrace):
    assert "REGISTER" in prtrace("decode", "-", stdin=CDB).stdout


def test_names_that_others_chose_are_harmless(prtrace, tmp_path):
    """An iSCSI name with an escape sequence in a TransportID."""
    name = b"iqn.\x1b[31mred".ljust(20, b"\0")
    port = bytes([5, 0, 0, len(name)]) + name
    listed = bytes(8) + (9).to_bytes(8, "big") + bytes(4) + b"\x08\0\0\0"
    listed += len(port).to_bytes(4, "big") + port
    (tmp_path / "list").write_bytes(listed)
    done = prtrace("decode", "--as", "out", tmp_path / "list")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "iqn." in done.stdout


def test_too_much_is_refused(prtrace, tmp_path):
    (tmp_path / "huge").write_bytes(b"00 " * 400_000)
    done = prtrace("decode", tmp_path / "huge")
    assert done.returncode == 2
    assert "more than" in done.stderr
