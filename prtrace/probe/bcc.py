"""The bcc engine: the same C source, compiled on this host by the distribution's bcc.

For kernels without BTF data for libbpf to relocate against, and for people who want to
edit the programs in place.  PyPI's `bcc` is an unrelated package, so the distribution's
copy is found by its path, whatever interpreter runs this.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from prtrace.errors import UnavailableError
from prtrace.probe import kallsyms, libbpf
from prtrace.probe.programs import (
    ATTEMPTS,
    FALLBACK,
    MAPS,
    WITHOUT_BTF,
    Engine,
    Point,
    Programs,
    activate,
)

_PLACES: Final = ("/usr/lib/python3/dist-packages/bcc", "/usr/lib/python3.*/site-packages/bcc")
_PACKAGE: Final = "apt install python3-bpfcc"
_SAMPLE_PAGES: Final = 64
_PAGE: Final = 4096
_METHODS: Final = (
    (r"bpf_map_lookup_elem\(&(\w+), ", r"\1.lookup("),
    (r"bpf_map_update_elem\(&(\w+), ([^;]*), BPF_NOEXIST\)", r"\1.insert(\2)"),
    (r"bpf_map_delete_elem\(&(\w+), ", r"\1.delete("),
    (r"bpf_ringbuf_reserve\(&(\w+), ([^;]*), 0\)", r"\1.ringbuf_reserve(\2)"),
    (r"bpf_ringbuf_submit\((\w+), 0\)", r"RING.ringbuf_submit(\1, 0)"),
)
"""What the source calls by the helpers' names, as bcc's methods of a map."""
_PARTS: Final = (
    "pr_maps.h",
    "pr_kernel.h",
    "pr_call.h",
    "pr_data.h",
    "pr_count.h",
    "pr_submit.h",
    "pr_end.h",
)
"""The headers that use maps, or macros of theirs: bcc knows maps in the main file only."""
_SUBMITTED: Final = re.compile(r"bpf_ringbuf_reserve\(&(\w+)")
_OLD_REQUEST: Final = "scsi_request.h"
"""The header of struct scsi_request, which requests had until Linux 5.18."""
_FETCH: Final = "BPF_FETCH"
"""What a kernel can do whose atomic additions return what was there before, since Linux 5.12."""
_FIRST_ARGUMENTS: Final = (("request_queue", 2), ("gendisk", 1))
"""What blk_execute_rq() began with until Linux 5.12 and 5.17, and where the request was."""
_POINTS: Final = (
    FALLBACK,
    *(point for point in ATTEMPTS if point.section.startswith("tp_btf/")),
    Point("pr_submit", "fentry/blk_execute_rq", "who asked"),
    Point("pr_submit_nowait", "fentry/blk_execute_rq_nowait", "who asked"),
)
"""What bpf/prtrace.bcc.c has.  bcc's kprobes cannot be pinned, and its fentry programs attach to
functions of the kernel proper only: so every end is seen by the tracepoint."""


def package_path() -> Path | None:
    """Where the distribution keeps bcc's Python package, None where it is not installed."""
    for place in _PLACES:
        for path in sorted(Path("/").glob(place.lstrip("/"))):
            # PyPI's namesake has no libbcc.py.
            if (path / "libbcc.py").is_file():
                return path
    return None


def headers_path() -> Path | None:
    """The running kernel's build folder: $BCC_KERNEL_SOURCE, or the modules' build link."""
    named = os.environ.get("BCC_KERNEL_SOURCE")
    path = Path(named) if named else Path("/lib/modules") / platform.release() / "build"
    return path if path.is_dir() else None


def source_path() -> Path:
    """The folder of the C source: inside the package, or beside it in a checkout."""
    for path in (
        Path(__file__).with_name("bpf"),
        Path(__file__).parents[2] / "bpf",
    ):
        if (path / "prtrace.bpf.c").is_file():
            return path
    raise UnavailableError("the BPF source is not installed", hint="reinstall prtrace")


def digest() -> str:
    """Twelve hex digits that name the source."""
    whole = hashlib.sha256()
    for path in sorted(source_path().glob("*.[ch]")):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]


def load(generation: int, ring_size: int) -> Programs:
    """Compile, load and attach.  bcc cannot share the maps of a running generation.

    Raises UnavailableError naming the package that is missing.
    """
    module = _bcc()
    headers = headers_path()
    if headers is None:
        raise UnavailableError(
            f"bcc needs the headers of the running kernel, {platform.release()}",
            hint=f"apt install linux-headers-{platform.release()}",
        )
    source = source_path()
    flags = [
        "-DPR_BCC",
        f"-I{source}",
        f"-DPR_RING_PAGES={ring_size // _PAGE}",
        f"-DPR_SAMPLE_PAGES={_SAMPLE_PAGES}",
        f"-DPR_GENERATION={generation}",
        *(f"-DPR_{name.upper()}_AT={at:#x}ULL" for name, at in kallsyms.addresses().items()),
        "-Wno-macro-redefined",
    ]
    if not libbpf.btf_available():
        flags.append("-DPR_NO_FENTRY")
    flags += _shape(headers)
    try:
        bpf = module.BPF(text=_translated(source).encode(), cflags=flags)
    except Exception as error:  # bcc raises bare Exception for everything
        raise UnavailableError(
            f"bcc could not compile or load the programs: {error}", hint="see prtrace doctor"
        ) from None
    maps = {name: os.dup(bpf[name.encode()].map_fd) for name in MAPS}
    activate(maps, generation)
    links, missing = _attached(bpf)
    return Programs(Engine.BCC, digest(), generation, maps, links, missing, _WHY)


_WHY: Final = "bcc can hook no function of a module"


def _shape(headers: Path) -> list[str]:
    """What is different in older kernels, as flags for the compiler.

    By the headers and not by the kernel's number: distributions carry changes back.
    """
    include = _common(headers) / "include"
    flags = ["-DPR_SCSI_REQUEST"] if (include / "scsi" / _OLD_REQUEST).exists() else []
    if _FETCH not in _text(include / "uapi" / "linux" / "bpf.h"):
        flags.append("-DPR_NO_FETCH")
    declared = "".join(_text(include / "linux" / name) for name in ("blkdev.h", "blk-mq.h"))
    match = re.search(r"\bblk_execute_rq\(\s*struct (\w+)", declared)
    argument = dict(_FIRST_ARGUMENTS).get(match[1], 0) if match else 0
    nested = re.search(r"\bblk_execute_rq_nowait\([^;]*\brq_end_io_fn\b", declared) is not None
    return [*flags, f"-DPR_REQUEST_ARGUMENT={argument}", f"-DPR_NESTED={int(nested)}"]


def _text(header: Path) -> str:
    return header.read_text(errors="replace") if header.exists() else ""


def _common(headers: Path) -> Path:
    """The folder of the sources' own headers; Debian keeps them apart from the build folder."""
    makefile = headers / "Makefile"
    match = (
        re.search(r"^include (\S+)/Makefile$", makefile.read_text(), re.MULTILINE)
        if makefile.exists()
        else None
    )
    named = Path(match[1]) if match else None
    return named if named is not None and named.is_dir() else headers


def _translated(source: Path) -> str:
    text = (source / "prtrace.bcc.c").read_text()
    for name in _PARTS:
        text = text.replace(f'#include "{name}"', (source / name).read_text())
    lines, ring = [], ""
    for line in text.splitlines(keepends=True):
        translated = line
        if match := _SUBMITTED.search(line):
            ring = match[1]
        for pattern, method in _METHODS:
            translated = re.sub(pattern, method.replace("RING", ring), translated)
        lines.append(translated)
    return "".join(lines)


def _bcc() -> ModuleType:
    path = package_path()
    if path is None:
        raise UnavailableError("bcc is not installed", hint=_PACKAGE)
    if "bcc" in sys.modules:
        return sys.modules["bcc"]
    spec = importlib.util.spec_from_file_location(
        "bcc", path / "__init__.py", submodule_search_locations=[str(path)]
    )
    if spec is None or spec.loader is None:
        raise UnavailableError(f"bcc at {path} cannot be imported", hint=_PACKAGE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        del sys.modules["bcc"]
        raise UnavailableError(f"bcc at {path}: {error}", hint=_PACKAGE) from None
    return module


def _attached(bpf: Any) -> tuple[dict[str, int], dict[str, str]]:
    links: dict[str, int] = {}
    missing: dict[str, str] = {}
    # bcc attaches what carries a kfunc prefix by itself, while it loads.
    by_function = {**bpf.kfunc_entry_fds, **bpf.kfunc_exit_fds}
    for point in _POINTS if by_function else (*_POINTS, WITHOUT_BTF):
        kind, _, function = point.section.partition("/")
        try:
            if kind == "tp_btf":
                bpf.attach_raw_tracepoint(function.encode(), point.program.encode())
                links[point.program] = os.dup(bpf.raw_tracepoint_fds[function.encode()])
            else:
                links[point.program] = os.dup(by_function[f"kfunc__{function}".encode()])
        except KeyError:
            missing[point.program] = "this kernel has no BTF"
        except Exception as error:
            if point is FALLBACK:
                raise UnavailableError(
                    f"bcc could not attach {point.program}: {error}", hint="see prtrace doctor"
                ) from None
            missing[point.program] = str(error)
    libbpf.log()
    return links, missing
