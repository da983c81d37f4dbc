"""The command line of QEMU for a lab machine."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from labkit import accel, channel, places
from labkit.kernels import Kernel

# The stall detectors would report that the emulator is slow.  The kernel's ciphers are no subject:
# they need not be tested at each start.
_KERNEL_ARGUMENTS = (
    "panic=-1 loglevel=4 rcupdate.rcu_cpu_stall_suppress=1 watchdog_thresh=60 "
    "tsc=reliable no_timer_check net.ifnames=0 cryptomgr.notests"
)

# A fifth level of page tables makes each look-up of an address longer, and a guard against the
# kernel's own access to a program's memory makes each copy longer.  The kernel's mitigations stay:
# the verifier of BPF asks for them.
_EMULATED = "max,-smap,-smep,-umip,-pku,-la57"

_SHARE = "security_model=none,multidevs=remap"
_VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
_OUT = "out"
"""The only folder that a machine may write to."""


@dataclass(frozen=True, slots=True)
class Link:
    """A machine's end of a network of two machines, which reaches nothing else.

    socket: the Unix socket that the frames go through.  address: the machine's, with the prefix
    length.  listens: this end makes the socket, so this machine is started first.
    """

    socket: Path
    address: str
    listens: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """A machine's hardware.

    memory as QEMU writes it ("2G").  cpus: emulated processors spin on each other's locks while
    the host runs something else, so two of them start in 6 s on an idle host but in 20 s on a busy
    one, where one starts in 6 to 9.  Ask for two where races are the point.  icount: one processor
    whose clock advances one nanosecond an instruction, so that CPU-bound figures repeat; its clock
    jumps ahead whenever it is idle.  idles: with icount, the clock of an idle machine goes on as
    the host's does instead, so that no time-out is over while a disk works.  options: further
    arguments for QEMU.  link: a second machine.  root: a Debian root of its own (labkit.roots), in
    which systemd runs; without it the machine has this machine's files.  disk: an image with an
    empty ext4 file system, which keeps what the machine writes to its root, so that the next
    machine with it goes on where this one ended.
    """

    memory: str = "2G"
    cpus: int = 1
    icount: bool = False
    options: tuple[str, ...] = ()
    link: Link | None = None
    root: Path | None = None
    disk: Path | None = None
    idles: bool = False


def command(
    kernel: Kernel, shape: Shape, folder: Path, out: Path, *, interactive: bool
) -> list[str]:
    """QEMU's arguments; control socket, monitor socket and console log are in folder."""
    # An instruction counter exists in emulation only.
    engine = "tcg" if shape.icount else accel.choose(kernel)
    append = f"console=ttyS0 {_KERNEL_ARGUMENTS} "
    if shape.root is None:
        append += (
            f"lab.script={places.CHECKOUT}/tools/labkit/guest.sh "
            f"lab.tools={places.CHECKOUT}/tools lab.pycache={places.cache()}/pycache "
            f"lab.modules={kernel.modules} lab.python=/usr/bin/python3"
        )
    else:
        append += "lab.systemd systemd.show_status=0 systemd.default_timeout_start_sec=600"
    if shape.disk is not None:
        append += " lab.disk"
    if shape.link is not None:
        append += f" lab.address={shape.link.address}"
    arguments = [
        *("qemu-system-x86_64", "-machine", "q35", "-accel", engine),
        *("-cpu", "host" if engine == "kvm" else _EMULATED),
        *("-m", shape.memory, "-smp", "1" if shape.icount else str(shape.cpus)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(kernel.image), "-initrd", str(kernel.initramfs()), "-append", append),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=control,path={folder}/control,server=on,wait=off"),
        *("-device", f"virtserialport,chardev=control,name={channel.PORT}"),
        *("-qmp", f"unix:{folder}/monitor,server=on,wait=off"),
    ]
    if kernel.shares == "virtiofs":
        memory = f"memory-backend-memfd,id=memory,size={shape.memory},share=on"
        arguments += ["-object", memory, "-numa", "node,memdev=memory"]
    for tag, shared in _shared(kernel, shape, out).items():
        if kernel.shares == "virtiofs":
            arguments += _by_virtiofs(tag, folder)
        else:
            arguments += _by_9p(tag, shared, readonly=tag != _OUT)
    if interactive:
        arguments += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    else:
        arguments += ["-serial", f"file:{folder}/console"]
    if shape.disk is not None:
        arguments += ["-drive", f"file={shape.disk},if=virtio,format=raw,cache=unsafe"]
    if shape.icount:
        arguments += ["-icount", f"shift=0,sleep={'on' if shape.idles else 'off'}"]
    if shape.link is not None:
        arguments += _network(shape.link)
    for option in shape.options:
        arguments += shlex.split(option)
    return arguments


def servers(kernel: Kernel, shape: Shape, folder: Path, out: Path) -> list[list[str]]:
    """The programs that have to run before QEMU does, each of which ends with it."""
    if kernel.shares != "virtiofs":
        return []
    return [
        [_VIRTIOFSD, f"--socket-path={folder}/{tag}.fs", "-o", f"source={shared},sandbox=chroot"]
        for tag, shared in _shared(kernel, shape, out).items()
    ]


def _shared(kernel: Kernel, shape: Shape, out: Path) -> dict[str, Path]:
    """Every folder that the machine reaches, by the tag that it mounts it by."""
    shared = {"root": shape.root or Path("/"), _OUT: out}
    if shape.root is not None:
        shared |= {"checkout": places.CHECKOUT, "modules": kernel.modules}
    return shared


def _by_9p(tag: str, shared: Path, *, readonly: bool) -> list[str]:
    only = "readonly=on," if readonly else ""
    return [
        *("-fsdev", f"local,id={tag},path={shared},{only}{_SHARE}"),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]


def _by_virtiofs(tag: str, folder: Path) -> list[str]:
    return [
        *("-chardev", f"socket,id={tag},path={folder}/{tag}.fs"),
        *("-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"),
    ]


def _network(link: Link) -> list[str]:
    end = "on" if link.listens else "off"
    backend = f"stream,id=link,server={end},addr.type=unix,addr.path={link.socket}"
    # QEMU gives both ends the same address by default.  No machine starts from the network.
    card = f"virtio-net-pci,netdev=link,romfile=,mac=52:54:00:00:00:0{1 if link.listens else 2}"
    return ["-netdev", backend, "-device", card]


def environment(extra: dict[str, str], *, own_root: bool = False) -> dict[str, str]:
    """What a command in the machine finds in its environment, whatever the caller's own is.

    own_root: nothing of the checkout and of the virtual environment.
    """
    if own_root:
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "USER": "root",
            "LANG": "C.UTF-8",
            "TERM": "linux",
            "LAB_OUT": "/run/lab/out",
            "LAB_TARGET": "/run/lab/target.json",
            **extra,
        }
    return {
        "PATH": f"{places.venv()}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        "HOME": "/root",
        "USER": "root",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "linux"),
        "PRTRACE_CACHE": str(places.cache()),
        "PYTHONPATH": ":".join(str(places.CHECKOUT / each) for each in ("", "tools", "tests")),
        "PYTHONPYCACHEPREFIX": str(places.cache() / "pycache"),
        "LAB_OUT": "/run/lab/out",
        "LAB_TARGET": "/run/lab/target.json",
        **extra,
    }
