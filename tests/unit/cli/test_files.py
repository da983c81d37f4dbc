"""Files that commands are given: what may be missing, and what is refused."""

import pytest

from prtrace.cli.files import PORTS_FOLDER, read_keys, read_ports
from prtrace.errors import MalformedError, UsageError


def test_a_folder_of_ports_that_somebody_named_is_there(tmp_path):
    assert read_ports(tmp_path) == []
    with pytest.raises(UsageError, match="is not there"):
        read_ports(tmp_path / "typo")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Not a directory"):
        read_ports(tmp_path / "file")
    if not PORTS_FOLDER.exists():
        assert read_ports(PORTS_FOLDER) == []


@pytest.mark.parametrize("content", ["[]", '{"node1": "0x1"}', "{", "[" * 100_000])
def test_a_file_of_keys_that_is_not_understood_is_refused_by_name(tmp_path, content):
    (tmp_path / "keys").write_text(content)
    with pytest.raises(MalformedError, match=f"{tmp_path}/keys"):
        read_keys(tmp_path / "keys")
    (tmp_path / "keys").write_text('{"0x666e0001": "node1", "a1": 5}')
    assert read_keys(tmp_path / "keys") == {0x666E0001: "node1", 0xA1: "5"}
    assert read_keys(None) == {}
