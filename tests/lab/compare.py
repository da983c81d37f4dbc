"""What prtrace shows without doubt, held against LIO's own view."""

from __future__ import annotations

from collections import Counter
from typing import Any

from labkit.oracle import OracleState
from labkit.target import Unit


def compare(unit: Unit, shown: dict[str, Any], truth: OracleState) -> list[str]:
    """Every undoubted fact that is not as LIO has it, in words."""
    doubted = {each["what"] for each in shown["doubt"]}
    hctl = {path.initiator.lower(): path.hctl for path in unit.paths}
    wrong: list[str] = []

    def expect(what: str, ours: object, theirs: object) -> None:
        if ours != theirs:
            wrong.append(f"{what}: prtrace says {ours}, LIO {theirs}")

    if "generation" not in doubted:
        expect("generation", shown["generation"], truth.generation)
    if "registrations" not in doubted:
        wild = _wild(shown)
        certain = [each for each in shown["registrations"] if not each["nexus"].endswith(",*")]
        ours = Counter((each["nexus"], int(each["key"], 16)) for each in certain)
        theirs = Counter(
            (hctl.get(r.initiator, r.initiator), r.key)
            for r in truth.registrations
            if (r.initiator.lower(), r.key) not in wild
        )
        expect("registrations", _sorted(ours), _sorted(theirs))
        if strangers := [each for each in certain if not each["local"]]:
            wrong.append(f"registrations of this host called foreign: {strangers}")
        if shown["unattributed_keys"]:
            wrong.append(f"unattributed keys without doubt: {shown['unattributed_keys']}")
    if "reservation" not in doubted:
        expect("SPC-2 reservation", shown["legacy_reservation"], _holder(hctl, truth.spc2_holder))
        hidden = doubted | ({"registrations"} if _wild(shown) else set())
        ours = _shown(shown, hidden)
        theirs = _true(hctl, truth, hidden)
        if ours is not None and theirs is not None and len(ours) == len(theirs) == 3:
            # One that is said to be at any target ports is told by its initiator port.
            holder = ours[2][0] if len(ours[2]) == 1 else ""
            if holder.endswith(",*") and holder.removesuffix(",*").lower() == truth.holder:
                ours = (*ours[:2], theirs[2])
        expect("reservation", ours, theirs)
    return wrong


def _wild(shown: dict[str, Any]) -> set[tuple[str, int]]:
    """Initiator ports and keys that are said to be of any target ports, here or not."""
    return {
        (each["nexus"].removesuffix(",*").lower(), int(each["key"], 16))
        for each in shown["registrations"]
        if each["nexus"].endswith(",*") and each["maybe_local"]
    }


def _sorted(counted: Counter[tuple[str, int]]) -> list[str]:
    return sorted(f"{nexus}={key:#x}" for nexus, key in counted.elements())


def _holder(hctl: dict[str, str], port: str | None) -> str | None:
    if port is None:
        return None
    # The legacy holder is listed without its ISID on some kernels.
    named = [
        path for name, path in hctl.items() if name.partition(",")[0] == port.partition(",")[0]
    ]
    return hctl.get(port) or (named[0] if len(named) == 1 else port)


def _shown(shown: dict[str, Any], doubted: set[str]) -> tuple[Any, ...] | None:
    held = shown["reservation"]
    if held is None:
        return None
    key = None if held["key"] is None else int(held["key"], 16)
    if held["type_code"] >= 7 and "registrations" in doubted:
        return held["type_code"], key
    return held["type_code"], key, tuple(sorted(held["holders"]))


def _true(hctl: dict[str, str], truth: OracleState, doubted: set[str]) -> tuple[Any, ...] | None:
    if truth.type_code is None or truth.holder is None:
        return None
    if truth.type_code >= 7:
        if "registrations" in doubted:
            return truth.type_code, 0
        holders = tuple(sorted(hctl.get(r.initiator, r.initiator) for r in truth.registrations))
        return truth.type_code, 0, holders
    key = truth.keys().get(truth.holder)
    return truth.type_code, key, (_holder(hctl, truth.holder),)
