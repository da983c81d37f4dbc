"""The object: built for both architectures, and refused on the other one."""

from __future__ import annotations

import json
import platform
import struct
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from labkit import pace

from prtrace.cli.main import cli
from prtrace.errors import UnavailableError
from prtrace.probe import core, libbpf, objectfile, requirements
from prtrace.probe.programs import POINTS
from prtrace.probe.requirements import CheckResult

TOP = Path(__file__).parents[3]
HERE = platform.machine()
OTHER = "aarch64" if HERE == "x86_64" else "x86_64"

REGISTERS = {
    "x86_64": {"orig_ax", "di", "si", "bx", "cx"},
    "aarch64": {"orig_x0", "syscallno", "regs"},
}
"""Members that tell the system call and its arguments: struct pt_regs of each architecture
(arch/x86/include/asm/ptrace.h; arch/arm64/include/asm/ptrace.h, user_pt_regs for regs)."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The object for each machine, as the sources are: that of this one is the checkout's own."""
    own = TOP / f"prtrace/probe/prtrace.{HERE}.bpf.o"
    made = {HERE: own, OTHER: tmp_path_factory.mktemp("objects") / f"{OTHER}.o"}
    for machine, path in made.items():
        subprocess.run(
            [TOP / "tools/build-bpf", path, machine], check=True, timeout=pace.limit(120)
        )
    return made


def sections(path: Path) -> dict[str, str]:
    obj = libbpf.bpf_object__open_file(str(path))
    try:
        return {
            name: libbpf.bpf_program__section_name(program)
            for name, program in libbpf.programs(obj)
        }
    finally:
        libbpf.bpf_object__close(obj)


def names(path: Path) -> set[str]:
    """Every name among the types of an object: what it wants to find in a kernel's."""
    text = subprocess.run(
        ["llvm-objcopy", "--dump-section=.BTF=/dev/stdout", path, "/dev/null"],
        capture_output=True,
        check=True,
        timeout=pace.limit(60),
    ).stdout
    _magic, _version, _flags, header, _types, _types_size, strings, size = struct.unpack_from(
        "<HBBIIIII", text
    )
    start = header + strings
    return {name.decode() for name in text[start : start + size].split(b"\0")}


def test_both_objects_have_the_programs_that_python_names(built: dict[str, Path]) -> None:
    wanted = {point.program: point.section for point in POINTS} | {"pr_learn": "syscall"}
    for path in built.values():
        assert sections(path) == wanted


def test_each_object_names_the_registers_of_its_own_machine(built: dict[str, Path]) -> None:
    for machine, path in built.items():
        found = names(path)
        for other, registers in REGISTERS.items():
            assert found & registers == (registers if other == machine else set()), machine


def test_doctor_and_agent_refuse_the_object_of_another_machine(
    built: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for machine, verdict in ((OTHER, CheckResult.MISSING), (HERE, CheckResult.OK)):
        monkeypatch.setenv("PRTRACE_BPF_OBJECT", str(built[machine]))
        (check,) = (each for each in requirements.of_core() if each.name == "BPF object")
        assert check.verdict is verdict, check
    monkeypatch.setenv("PRTRACE_BPF_OBJECT", str(built[OTHER]))
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    (told,) = (each for each in json.loads(done.output)["checks"] if each["name"] == "BPF object")
    assert f"is for {OTHER}, and this is {HERE}" in told["detail"]
    assert told["fix"].startswith("build it here: tools/build-bpf")
    with pytest.raises(UnavailableError, match=f"is for {OTHER}"):
        core.load(1, 1 << 16, {})


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    none = tmp_path / "none.o"
    none.write_bytes(b"not an object")
    with (
        pytest.raises(UnavailableError, match="is no BPF object"),
        objectfile.opened(none),
    ):
        pass
