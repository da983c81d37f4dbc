"""finish against a live multipathd, which stores the guest's key and registers it on its own.

    ./tools/lab run --kernel 6.1 --nexuses 3 --udev -- python3 tests/move/mpathd.py

The source's two paths are multipathd's map; the third nexus is the destination.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from bed import Agent, Bed, K, check, finish
from labkit import pace
from labkit.waiting import await_that

from prtrace.model import ReservationType
from prtrace.move import savefile
from prtrace.move.multipathd import KEYS_FILE
from prtrace.move.word import Word

KIND = ReservationType.WERO
SOURCE, DESTINATION = (0, 1), (2,)


def main() -> None:
    bed = Bed()
    KEYS_FILE.parent.mkdir(exist_ok=True)
    subprocess.run(["modprobe", "-a", "dm_multipath", "dm_round_robin"], check=True)
    Path("/etc/multipath.conf").write_text(
        "defaults {\n find_multipaths no\n user_friendly_names yes\n polling_interval 1\n"
        " max_polling_interval 1\n reservation_key file\n}\n"
        f'blacklist {{\n devnode "^{Path(bed.paths[2].block).name}$"\n}}\n'
    )
    daemon = subprocess.Popen(["multipathd", "-d"], stdout=subprocess.DEVNULL)
    try:
        moved(bed, map_of(bed))
    finally:
        daemon.terminate()
        daemon.wait(pace.limit(60))
    finish()


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=pace.limit(120))
    print("$", *words, f"[{done.returncode}]\n{done.stdout}{done.stderr}", flush=True)
    return done.stdout.strip()


def wait_for(what: str, condition: Callable[[], object]) -> None:
    await_that(what, condition, told=lambda: run("multipath", "-ll"))


def map_of(bed: Bed) -> str:
    """The name of multipathd's map over the source's paths."""
    holders = Path("/sys/class/block", Path(bed.paths[0].block).name, "holders")

    def names() -> list[str]:
        return [
            (holder / "dm/name").read_text().strip()
            for holder in holders.iterdir()
            if len(list((holder / "slaves").iterdir())) == len(SOURCE)
        ]

    wait_for("multipathd's map", names)
    name = names()[0]
    wait_for("its node", Path("/dev/mapper", name).exists)
    wait_for("multipathd knows it", lambda: run("multipathd", "getprkey", "map", name) == "none")
    return name


def set_state(bed: Bed, state: str) -> None:
    Path(f"/sys/class/scsi_device/{bed.paths[1].hctl}/device/state").write_text(f"{state}\n")


def bounce(bed: Bed, name: str) -> None:
    """One of the source's paths goes and comes back, and multipathd sees both."""

    def path_state() -> str:
        lines = run("multipathd", "show", "paths", "raw", "format", "%i %t %T").splitlines()
        return next(line.split()[1] for line in lines if line.split()[0] == bed.paths[1].hctl)

    set_state(bed, "offline")
    wait_for("path failed", lambda: path_state() == "failed")
    set_state(bed, "running")
    wait_for("path back", lambda: path_state() == "active")
    run("multipathd", "getprstatus", "map", name)


def moved(bed: Bed, name: str) -> None:
    node = f"/dev/mapper/{name}"
    key = f"{K:x}"
    run("mpathpersist", "--out", "--register", f"--param-sark={key}", node)
    run("mpathpersist", "--out", "--reserve", f"--param-rk={key}", "--prout-type=5", node)
    bed.is_at("mpathpersist", SOURCE, KIND, peer=False)
    check("stored", run("multipathd", "getprkey", "map", name), f"{K:#x}")

    # What finish is for: without it, multipathd brings the key back by itself.
    file = loaded(bed, node)
    bounce(bed, name)
    back = set(bed.lio().keys())
    wanted = {bed.paths[path].initiator for path in (1, *DESTINATION)}
    check("not finished: multipathd registers again", back, wanted)

    # By the agent: with what is left of its privileges, multipathd must still listen to it.
    with Agent() as agent:
        done = agent.call("Finish", file=file.to_document())["report"]["units"][0]
    print("removed", *done["removed"], sep="\n  ", flush=True)
    check("finish", (len(done["removed"]), done["remains"]), (1, []))
    check("forgotten", run("multipathd", "getprkey", "map", name), "none")
    # It strikes a line out by a # in front.
    lines = [line for line in KEYS_FILE.read_text().splitlines() if not line.startswith("#")]
    check("not in the file", [line for line in lines if key in line], [])
    bed.is_at("finished", DESTINATION, KIND, peer=False)
    bounce(bed, name)
    bed.is_at("finished, a path came back", DESTINATION, KIND, peer=False)
    again = bed.moves().finish(file).units[0]
    check("finish again", (again.removed, again.remains), ((), ()))


def loaded(bed: Bed, node: str) -> savefile.SaveFile:
    file = bed.save(node)
    report = bed.load(file, bed.paths[2].block)
    check("loaded", [unit.word for unit in report.units], [Word.COMMITTED])
    bed.is_at("loaded", DESTINATION, KIND, peer=False)
    return file


if __name__ == "__main__":
    main()
