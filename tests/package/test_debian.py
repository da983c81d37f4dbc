"""The Debian packages: built from the tree in clean roots of both releases, twice the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from labkit import roots

TOP = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_builds_without_a_word_of_lintian_and_twice_the_same(release, tmp_path):
    done = subprocess.run(
        [sys.executable, TOP / "tools" / "package", release, "--twice", "--out", tmp_path],
        capture_output=True,
        text=True,
        timeout=2900,
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.name.split("_")[0] for path in (tmp_path / release).glob("*.deb"))
    # The lock-manager plugin is the one part that is compiled, and so has debugging symbols.
    assert names == ["prtrace", "prtrace-libvirt", "prtrace-libvirt-dbgsym", "prtrace-proxy"]
    (package,) = (tmp_path / release).glob("prtrace_*.deb")
    listed = subprocess.run(
        ["dpkg-deb", "-c", package], capture_output=True, text=True, check=True
    ).stdout
    for wanted in (
        "usr/bin/prtrace",
        "prtrace/probe/prtrace.x86_64.bpf.o",
        "system/prtrace-agent.service",
        "system/prtrace-agent.socket",
        "sysusers.d/prtrace.conf",
        "man8/prtrace-agent.8.gz",
        "man7/io.prtrace.7.gz",
        "bash-completion/completions/prtrace",
        "schema/io.prtrace.varlink",
        "share/prtrace/prometheus/prtrace.rules.yml",
        "lib/systemd/catalog/prtrace.catalog",
    ):
        assert wanted in listed


def test_autopkgtest_passes(tmp_path):
    """Where the packages are installed and nothing else is: Debian's own runner of such tests."""
    build = [sys.executable, TOP / "tools" / "package", "bookworm", "--out", tmp_path]
    subprocess.run(build, check=True, capture_output=True, timeout=2900)
    packages = (
        "autopkgtest",
        "dpkg-dev",
        "libbpf1",
        "python3-click",
        "python3-construct",
        "python3-psutil",
    )
    script = """
        dpkg --install /out/prtrace_*.deb /out/prtrace-proxy_*.deb
        autopkgtest --no-built-binaries --test-name=installed . -- null
    """
    told = roots.run(
        roots.root("bookworm", (*packages, "systemd", "kmod")), script, tmp_path / "bookworm"
    )
    assert "installed            PASS" in told
