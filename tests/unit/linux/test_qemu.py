from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.linux.qemu import GuestIdentity, guest_of, options, settings

UUID = "6d1c2d0e-6a2b-4c57-9a3e-0123456789ab"
QEMU = "/usr/bin/qemu-system-x86_64"


@pytest.mark.parametrize(
    ("arguments", "name", "uuid"),
    [
        (f"-name guest=web1,debug-threads=on -uuid {UUID}", "web1", UUID),
        (f"-name web1 -uuid {UUID.upper()}", "web1", UUID),
        ("--name web1,process=qemu:web1", "web1", ""),
        ("-name debug-threads=on,guest=web1", "web1", ""),
        ("-name first -name second", "second", ""),
        ("-name guest=a,,b,debug-threads=on", "a,b", ""),
        ("-name a,,b=c", "", ""),
        (f"-smbios type=1,manufacturer=X,uuid={UUID}", "", UUID),
        (f"-smbios type=2,uuid={UUID} -name web1", "web1", ""),
        (f"-uuid {UUID} -smbios type=1,uuid={'0' * 8}{UUID[8:]}", "", UUID),
        ("-uuid nonsense -name web1", "web1", ""),
        ("-name guest=default_testvm,debug-threads=on", "default_testvm", ""),
        ("-name guest=\x1b[2J", r"\x1b[2J", ""),
        ("-m 4096 -name", "", ""),
        ("", "", ""),
    ],
)
def test_command_line(arguments: str, name: str, uuid: str) -> None:
    wanted = GuestIdentity(name, uuid) if name or uuid else None
    assert guest_of(QEMU, [QEMU, *arguments.split(" ")]) == wanted


@pytest.mark.parametrize(
    ("program", "is_qemu"),
    [
        ("/usr/bin/qemu-system-aarch64", True),
        ("/usr/libexec/qemu-kvm", True),
        ("/usr/bin/kvm", True),
        ("/usr/bin/qemu-system-x86_64 (deleted)", True),
        ("qemu-system-x86_64", True),
        ("/usr/bin/qemu-pr-helper", False),
        ("/usr/bin/sg_persist", False),
        ("/usr/bin/qemu-system-x86_64-evil/sh", False),
        ("", False),
    ],
)
def test_only_qemu_has_a_guest(program: str, is_qemu: bool) -> None:
    assert (guest_of(program, [program, "-name", "web1"]) is not None) is is_qemu


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {"type": ""}),
        ("pc-q35-9.0", {"type": "pc-q35-9.0"}),
        ("a=1,b=2,a=3", {"a": "3", "b": "2"}),
        ("x,y,b=c", {"type": "x", "b": "c"}),
        ("x,,y,b=,,c,,,d=e", {"type": "x,y", "b": ",c,", "d": "e"}),
    ],
)
def test_settings(text: str, found: dict[str, str]) -> None:
    assert settings(text, "type") == found
    assert settings(text) == {key: value for key, value in found.items() if key != "type"}


def test_options_have_one_dash_or_two() -> None:
    line = [QEMU, "-m", "4096", "--name", "x", "disk.img", "-S"]
    assert list(options(line)) == [("m", "4096"), ("name", "x")]


@given(st.text(), st.sampled_from(["", "type"]))
def test_any_text_has_settings(text: str, implied: str) -> None:
    assert all("\0" not in key + value for key, value in settings(text, implied).items())


@given(st.lists(st.sampled_from(["-name", "-uuid", "-smbios", "--name"]) | st.text(), max_size=8))
def test_any_command_line_gives_clean_text(arguments: list[str]) -> None:
    guest = guest_of(QEMU, arguments)
    if guest is not None:
        assert guest.name.isprintable()
        assert len(guest.name) <= 256
        assert guest.uuid == "" or len(guest.uuid) == 36
