"""The RPM: Debian's rpmbuild builds it, and it contains what it should.  No more is claimed."""

from __future__ import annotations

from pathlib import Path

import pytest
from labkit import roots

import prtrace

BUILD = ("rpm", "clang", "llvm", "libbpf-dev", "python3-click", "python3-construct",
         "python3-psutil")  # fmt: skip

SCRIPT = f"""
rpmbuild -bb --build-in-place --define "version {prtrace.__version__.replace("rc", "~rc")}" \\
    --define "_rpmdir /out" tools/packaging/prtrace.spec
rpm -qpl /out/*/*.rpm > /out/files
rpm -qp --scripts /out/*/*.rpm > /out/scripts
# Unpacked, it runs where its dependencies are.
cd /
rpm2cpio /out/*/*.rpm | cpio -idm --quiet
prtrace --version > /out/version
prtrace decode 5f000000000000001800 > /out/decoded
"""

WANTED = {
    "/usr/bin/prtrace",
    "/usr/lib/prtrace/prtrace/probe/prtrace.x86_64.bpf.o",
    "/usr/lib/prtrace/prtrace/schema/io.prtrace.varlink",
    "/usr/lib/systemd/catalog/prtrace.catalog",
    "/usr/lib/systemd/system/prtrace-agent.service",
    "/usr/lib/systemd/system/prtrace-agent.socket",
    "/usr/lib/systemd/system/prtrace-proxy.service",
    "/usr/lib/systemd/system/prtrace-proxy.socket",
    "/usr/lib/sysusers.d/prtrace-proxy.conf",
    "/usr/share/bash-completion/completions/prtrace",
    "/usr/share/prtrace/prometheus/prtrace.rules.yml",
    "/usr/share/prtrace/systemd/prtrace-proxy-multipath.conf",
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_builds_and_contains(tmp_path: Path) -> None:
    roots.run(roots.root("bookworm", (*BUILD, "cpio")), SCRIPT, tmp_path)
    files = set((tmp_path / "files").read_text().splitlines())
    assert files >= WANTED
    for section in (1, 5, 7, 8):
        assert any(name.startswith(f"/usr/share/man/man{section}/") for name in files), section
    assert not any("__pycache__" in name or "/tests/" in name for name in files)
    assert "prtrace detach --yes" in (tmp_path / "scripts").read_text()
    assert prtrace.__version__ in (tmp_path / "version").read_text()
    assert "REGISTER" in (tmp_path / "decoded").read_text()
    assert list((tmp_path / "x86_64").glob("prtrace-*.x86_64.rpm"))
