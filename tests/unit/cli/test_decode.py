"""decode: from arguments, files and standard input."""

import json
from pathlib import Path

import pytest
from shipped import valid

from cli.conftest import lines

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
    assert found["schema"] == "prtrace.decode/1"
    (keys,) = found["found"]
    assert keys["kind"] == "keys"
    assert len(keys["fields"][-1]["items"]) == 2


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
    (tmp_path / "huge").write_bytes(b"00 " * 6_000_000)
    done = prtrace("decode", tmp_path / "huge")
    assert done.returncode == 2
    assert "more than" in done.stderr


def test_a_transcript(prtrace):
    text = "    Persistent reservation in cdb: [5e 00 00 00 00 00 00 20 00 00]\n"
    text += "  PR generation=0x2, 1 registered reservation key follows:\n    0x666e0001\n"
    done = prtrace("decode", "-", stdin=text)
    assert done.returncode == 0, done.stderr
    assert "service action: READ KEYS" in done.stdout
    assert "0x00000000666e0001" in done.stdout
    found = json.loads(prtrace("decode", "--json", "-", stdin=text).stdout)["found"]
    assert [each["kind"] for each in found] == ["cdb", "keys"]
    assert {each["line"] for each in found} == {1}
    valid({"schema": "prtrace.decode/1", "found": found}, "decode.1")


def test_a_line_of_a_log(prtrace):
    done = prtrace("decode", "sd 0:0:7:0: reservation conflict")
    assert done.stdout == "line 1, Linux kernel, 0:0:7:0:\nRESERVATION CONFLICT\n"
    assert "UNIT ATTENTION 2A/03" in prtrace("decode", "06/2a/03").stdout


def test_an_offset_column_is_not_data(prtrace):
    text = " 00     00 00 00 01 00 00 00 08  00 00 00 00 66 6e 00 01\n"
    refused = prtrace("decode", "--as", "keys", "-", stdin=text)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--no-header" in refused.stderr
    done = prtrace("decode", "--as", "keys", "--header", "-", stdin=text)
    assert done.returncode == 0
    assert "prgeneration: 1\n" in done.stdout
    assert "  keys:\n    0x00000000666e0001\n" in done.stdout
    done = prtrace("decode", "--as", "keys", "--no-header", "-", stdin=text)
    assert done.returncode == 0
    assert "prgeneration" not in done.stdout
    assert "  keys:\n    0x0000000100000008\n    0x00000000666e0001\n" in done.stdout


def test_words_without_a_header_are_read_where_that_is_said(prtrace):
    done = prtrace("decode", "--as", "keys", "--no-header", "00 00 00 01 00 00 00 00")
    assert (done.returncode, "0x0000000100000000" in done.stdout) == (0, True)
    done = prtrace("decode", "--no-header", CDB)
    assert (done.returncode, "no header" in done.stderr) == (2, True)


def test_a_reply_that_was_cut_off(prtrace):
    done = prtrace("decode", "--as", "keys", FIXTURES / "truncated.keys.hex")
    assert done.returncode == 4
    assert "truncated" in done.stdout


def test_a_file_that_is_not_there(prtrace):
    done = prtrace("decode", "keys.hex")
    assert (done.returncode, "keys.hex: No such file" in done.stderr) == (2, True)


def test_a_lone_operation_code(prtrace):
    done = prtrace("decode", "16")
    assert done.returncode == 2
    assert "operation code of RESERVE(6)" in done.stderr


def test_a_file_of_lio(prtrace):
    """The file ends with a NUL, and is text all the same."""
    done = prtrace("decode", FIXTURES / "paste" / "lio-6.12-aptpl")
    assert done.returncode == 0, done.stderr
    assert "reservation key: 0x00000000666e0003" in done.stdout


def test_a_key_says_once_whose_it_may_be(prtrace):
    text = "  PR generation=0x1c, 2 registered reservation keys follow:\n"
    text += "    0x1000000000000007\n    0x1000000000000007\n"
    done = prtrace("decode", "-", stdin=text * 2)
    said = " ".join(" ".join(lines(done)).split())
    assert said.count("may be of LVM, host id 7: ") == 1
    assert "that is no proof" in said


LIST = "00 00 00 00 36 83 00 02 00 00 00 00 36 83 00 01 00 00 00 00 00 00 00 00"
PREEMPT = "5f 05 05 00 00 00 00 00 18 00"


def test_files_one_after_the_other(prtrace, tmp_path):
    """The parameter list is that of the CDB in the file before it, so --as is not needed."""
    (tmp_path / "cdb.txt").write_text(f"0000  {PREEMPT}\n")
    (tmp_path / "data.txt").write_text(LIST)
    (tmp_path / "sense").write_bytes(bytes.fromhex("700006000000000a000000002a0500000000"))
    names = [tmp_path / name for name in ("cdb.txt", "data.txt", "sense")]
    done = prtrace("decode", *names)
    assert done.returncode == 0, done.stderr
    assert "away from other" in done.stdout
    assert f"{names[0]}, line 1:" in done.stdout
    found = json.loads(prtrace("decode", "--json", *names).stdout)
    assert [each["kind"] for each in found["found"]] == ["cdb", "out", "sense"]
    assert [each["file"] for each in found["found"]] == [str(names[at]) for at in (0, 0, 2)]
    valid(found, "decode.1")


def test_of_several_files_the_one_that_cannot_be_read_is_named(prtrace, tmp_path):
    (tmp_path / "cdb.txt").write_text(PREEMPT)
    (tmp_path / "odd.txt").write_text("odd")
    (tmp_path / "data.txt").write_text(LIST)
    for names, words in (
        (("cdb.txt", "odd.txt"), "odd.txt: hex text"),
        (("cdb.txt", "missing.txt"), "missing.txt: No such file"),
        (("data.txt", "cdb.txt"), "data.txt: 24 bytes could be out"),
    ):
        done = prtrace("decode", *(tmp_path / name for name in names))
        assert done.returncode != 0
        assert words in done.stderr
        assert "hint: " in done.stderr or "No such file" in done.stderr
    assert "--as out, if" in prtrace("decode", tmp_path / "data.txt").stderr


def test_words_of_hex_are_no_files(prtrace, tmp_path, monkeypatch):
    (tmp_path / "00").write_text("no hex")
    monkeypatch.chdir(tmp_path)
    assert "PREEMPT AND ABORT" in prtrace("decode", *PREEMPT.split()).stdout
