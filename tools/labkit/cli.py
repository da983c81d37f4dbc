"""./tools/lab: real kernels with a real SCSI target, on a machine that has neither."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from labkit import kernels, machine, places, standing
from labkit.failure import DeadlineError, LabError, LostMachineError
from labkit.machine import Machine
from labkit.qemu import Shape, environment
from labkit.target import Target, TargetSpec

_DEADLINE_STATUS = 124
_LOST_STATUS = 125
_SHELL_SECONDS = 30 * 24 * 3600.0
_EXIT_STATUS = f"""\
exit status of run and exec: the command's own; {_DEADLINE_STATUS} it was ended at its deadline;
{_LOST_STATUS} the machine was lost or could not be started, so nothing is known about the command.
In the machine $LAB_OUT is the folder that --out names outside, and $LAB_TARGET a JSON file
that lists the logical units and the paths to them."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab",
        description=__doc__,
        epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    listing = verbs.add_parser("kernels", help="list the kernels here, or fetch newer ones")
    actions = listing.add_subparsers(dest="action", metavar="fetch")
    fetching = actions.add_parser("fetch", help="fetch the newest kernel of each series")
    fetching.add_argument("series", nargs="*", help=f"default: {' '.join(kernels.SERIES)}")
    fetching.add_argument("--headers", action="store_true", help="with the headers that bcc needs")

    running = verbs.add_parser("run", help="start a machine, run a command in it, end the machine")
    _machine_options(running)
    _command_options(running)

    _machine_options(verbs.add_parser("shell", help="an interactive shell in a machine"))

    rising = verbs.add_parser("up", help="start a machine and leave it standing")
    _machine_options(rising)
    executing = verbs.add_parser("exec", help="run a command in a standing machine")
    _command_options(executing)
    ending = verbs.add_parser("down", help="end a standing machine")
    for verb in (rising, executing, ending):
        verb.add_argument("--name", default="default", help="the machine's name")
    return parser


def _machine_options(verb: argparse.ArgumentParser) -> None:
    spec, shape = TargetSpec(), Shape()
    verb.add_argument("--kernel", default="6.1", help="series (6.1, 6.12, 7) or whole release")
    verb.add_argument("--luns", type=int, default=spec.luns, help="logical units")
    verb.add_argument("--nexuses", type=int, default=spec.nexuses, help="I_T nexuses of each")
    verb.add_argument(
        "--transport", default=spec.transport, choices=["loop", "iscsi", "loop,iscsi"]
    )
    verb.add_argument(
        "--multipath", action="store_true", help="dm-multipath over each unit's first two paths"
    )
    verb.add_argument(
        "--pages", type=int, default=spec.pages, help="a unit's size in pages of 4 KiB"
    )
    verb.add_argument("--udev", action="store_true", help="run the device manager")
    verb.add_argument("--no-target", action="store_true", help="a machine without target")
    verb.add_argument("--memory", default=shape.memory)
    verb.add_argument("--cpus", type=int, default=shape.cpus)
    verb.add_argument(
        "--icount", action="store_true", help="one processor, clock driven by instructions"
    )
    verb.add_argument("--qemu-opts", action="append", default=[], help="further QEMU options")
    verb.add_argument("--out", type=Path, help="the folder that is $LAB_OUT in the machine")


def _command_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--timeout", type=float, default=300, help="seconds for the command")
    verb.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for the command"
    )
    verb.add_argument("command", nargs="+", metavar="COMMAND", help="one word: a bash script")


def _spec(asked: argparse.Namespace) -> TargetSpec | None:
    if asked.no_target:
        return None
    return TargetSpec(
        asked.luns, asked.nexuses, asked.transport, asked.multipath, asked.pages, asked.udev
    )


def _shape(asked: argparse.Namespace) -> Shape:
    return Shape(asked.memory, asked.cpus, asked.icount, tuple(asked.qemu_opts))


def _command(asked: argparse.Namespace) -> str:
    return asked.command[0] if len(asked.command) == 1 else shlex.join(asked.command)


def _environment(asked: argparse.Namespace) -> dict[str, str]:
    return dict(setting.split("=", 1) for setting in asked.env)


def _pass_on(stream: str, octets: bytes) -> None:
    to = sys.stdout if stream == "out" else sys.stderr
    to.buffer.write(octets)
    to.buffer.flush()


def _kernels(asked: argparse.Namespace) -> int:
    if asked.action == "fetch":
        kernels.fetch(asked.series or list(kernels.SERIES), headers=asked.headers)
    for kernel in kernels.cached():
        print(kernel.release, kernel.folder, "headers" if kernel.headers else "", sep="\t")
    return 0


def _run(asked: argparse.Namespace) -> int:
    with Machine(asked.kernel, _spec(asked), shape=_shape(asked), out=asked.out) as running:
        env = _environment(asked)
        return running.begin(_command(asked), env=env, sink=_pass_on).finish(asked.timeout).status


def _shell(asked: argparse.Namespace) -> int:
    if not sys.stdin.isatty():
        raise LabError(
            "a shell needs a terminal", hint="for one command: ./tools/lab run -- COMMAND"
        )
    size = os.get_terminal_size()
    settings = subprocess.run(["stty", "-g"], capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="prtrace-lab-") as name:
        folder = Path(name)
        out = asked.out or folder / "out"
        out.mkdir(parents=True, exist_ok=True)
        shape = _shape(asked)
        process = machine.start(asked.kernel, shape, folder, out, standing=False, interactive=True)
        try:
            control = machine.connect(process, folder)
            _show(machine.boot(control, folder, _spec(asked), machine.BOOT_SECONDS))
            reply = control.request(
                "shell",
                _SHELL_SECONDS,
                rows=size.lines,
                columns=size.columns,
                env=environment({}),
                cwd=str(places.CHECKOUT),
            )
        finally:
            process.kill()
            process.wait()
            subprocess.run(["stty", settings.strip()], check=False)
    return int(reply["status"])


def _show(target: Target) -> None:
    for unit in target.units:
        nodes = [f"{path.hctl}={path.block},{path.sg}" for path in unit.paths]
        print(unit.lu, unit.multipath or "", *nodes, flush=True)


def _up(asked: argparse.Namespace) -> int:
    spec, shape = _spec(asked), _shape(asked)
    _show(standing.up(asked.name, asked.kernel, spec, shape, asked.out, machine.BOOT_SECONDS))
    return 0


def _exec(asked: argparse.Namespace) -> int:
    env = _environment(asked)
    return standing.execute(
        asked.name, _command(asked), asked.timeout, env=env, sink=_pass_on
    ).status


def _down(asked: argparse.Namespace) -> int:
    if not standing.down(asked.name):
        raise LabError(f"no machine called {asked.name} stands")
    return 0


def main() -> int:
    """Do what the command line asks; the exit status."""
    # SIGTERM raises SystemExit, so that every with statement cleans up, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_LOST_STATUS))
    asked = parser().parse_args()
    verbs = {
        "kernels": _kernels,
        "run": _run,
        "shell": _shell,
        "up": _up,
        "exec": _exec,
        "down": _down,
    }
    try:
        return verbs[asked.verb](asked)
    except LabError as error:
        print(f"lab: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"lab: hint: {error.hint}", file=sys.stderr)
        if isinstance(error, DeadlineError):
            return _DEADLINE_STATUS
        if isinstance(error, LostMachineError) or asked.verb in ("run", "exec"):
            return _LOST_STATUS
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
