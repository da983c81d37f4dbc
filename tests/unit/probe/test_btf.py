"""What an agent does to libbpf again and again in one process: libbpf must outlive it."""

from __future__ import annotations

import os
import subprocess
import sys

from labkit import pace

_AGAIN = """
from prtrace.probe import btf, libbpf, objectfile
for _ in range(50):
    with btf.attaching({}), objectfile.opened(objectfile.object_path()) as obj:
        sections = [libbpf.bpf_program__section_name(each) for _, each in libbpf.programs(obj)]
        assert "fentry/sg_rq_end_io" in sections, sections
"""


def test_programs_can_be_opened_again_and_again() -> None:
    """An agent loads programs at its start, and more of them when a module comes."""
    done = subprocess.run(
        [sys.executable, "-c", _AGAIN],
        env={**os.environ, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"},
        capture_output=True,
        text=True,
        timeout=pace.limit(120),
        check=False,
    )
    assert done.returncode == 0, done
