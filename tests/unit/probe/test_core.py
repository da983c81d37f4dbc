"""The object: built for both architectures, and refused on the other one."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from prtrace.errors import UnavailableError
from prtrace.probe import core, libbpf
from prtrace.probe.programs import POINTS

TOP = Path(__file__).parents[3]
OTHER = "aarch64" if platform.machine() == "x86_64" else "x86_64"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The object for each machine."""
    folder = tmp_path_factory.mktemp("objects")
    made = {machine: folder / f"{machine}.o" for machine in (platform.machine(), OTHER)}
    for machine, path in made.items():
        subprocess.run([TOP / "tools/build-bpf", path, machine], check=True, timeout=120)
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


def test_both_objects_have_the_programs_that_python_names(built: dict[str, Path]) -> None:
    wanted = {point.program: point.section for point in POINTS} | {"pr_learn": "syscall"}
    for path in built.values():
        assert sections(path) == wanted


def test_the_object_of_another_machine_is_refused(built: dict[str, Path]) -> None:
    with pytest.raises(UnavailableError, match=f"is for {OTHER}"):
        core.require_own_machine(built[OTHER])
    core.require_own_machine(built[platform.machine()])


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    none = tmp_path / "none.o"
    none.write_bytes(b"not an object")
    with pytest.raises(UnavailableError, match="is no BPF object"):
        core.require_own_machine(none)
