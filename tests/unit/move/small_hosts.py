"""Two hosts on one small target: the real Moves, Carrier, Journal and machine over a dictionary.

The target answers what LIO answers; what the verbs send to it is in `log`.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from prtrace.errors import NoSuchDeviceError
from prtrace.model import Action, FullStatus, FullStatusRead, LocalNexus, LogicalUnit, Outcome
from prtrace.move import savefile, verbs
from prtrace.move.carry import MoveOptions
from prtrace.move.reading import of_full_status, of_keys
from prtrace.move.savefile import SavedPath, SavedUnit, SaveFile
from prtrace.state.apply import apply, new_state
from prtrace.state.view import unit_view

LU = "naa.6001405aaaaaaaaaaaaaaaaaaaaaaaaa"
K = 0xA
S1, D1, PEER = ("iqn.s,i,0x1", 1), ("iqn.d,i,0x2", 1), ("iqn.p,i,0x9", 1)
DEAF = "DELL/X/1"


@dataclass
class Target:
    """keys: by port.  kind: of the reservation.  blind: it has no READ FULL STATUS."""

    keys: dict
    holder: tuple | None = None
    kind: object = None
    generation: int = 5
    blind: bool = False
    log: list = field(default_factory=list)

    def statuses(self):
        """What READ FULL STATUS has."""
        return tuple(
            FullStatus(
                initiator_port=port[0],
                relative_target_port=port[1],
                key=key,
                holder=port == self.holder,
                type=self.kind if port == self.holder else None,
            )
            for port, key in self.keys.items()
        )

    def send(self, port, command):
        outcome = self._send(port, command)
        self.log.append((port, command.do.value, outcome.value))
        return outcome

    def _send(self, port, command):
        if self.keys.get(port, 0) != command.key:
            return Outcome.CONFLICT
        match command.action:
            case Action.REGISTER if command.sa_key:
                self.keys[port] = command.sa_key
                self.generation += 1
            case Action.REGISTER:
                self.keys.pop(port, None)
                if self.holder == port:
                    self.holder = self.kind = None
            case Action.PREEMPT:
                held = self.keys.get(self.holder) == command.sa_key
                for other in [each for each in self.keys if each != port]:
                    if self.keys[other] == command.sa_key:
                        del self.keys[other]
                if held:
                    self.holder, self.kind = port, command.type
                self.generation += 1
            case Action.RELEASE if self.holder == port:
                self.holder = self.kind = None
            case Action.RESERVE if self.holder is None:
                self.holder, self.kind = port, command.type
            case Action.RESERVE if self.holder != port:
                return Outcome.CONFLICT
        return Outcome.DONE


class Host:
    """paths: {H:C:T:L: (initiator port, relative target port)}; named: they are known here."""

    def __init__(self, target, paths, folder, monkeypatch, *, kind="LIO-ORG/X/4.0", named=True):
        self.target, self.paths, self.folder = target, paths, Path(folder)
        self.monkeypatch = monkeypatch
        nexuses = tuple(
            LocalNexus(
                nexus,
                LU,
                device=f"/dev/sd{chr(97 + place)}",
                sg=f"/dev/sg{place}",
                initiator_port=port if named else None,
                relative_target_port=relative if named else None,
                state="running",
                life=100 + place,
            )
            for place, (nexus, (port, relative)) in enumerate(paths.items())
        )
        self.kind = kind
        self.unit = LogicalUnit(LU, *kind.split("/"), nexuses=nexuses)

    def _inventory(self):
        unit = self.unit

        def resolve(name):
            for nexus in unit.nexuses:
                if name in (nexus.nexus, nexus.device):
                    return SimpleNamespace(lu=unit, nexus=nexus)
            if name == unit.lu:
                return SimpleNamespace(lu=unit, nexus=None)
            raise NoSuchDeviceError(name)

        return SimpleNamespace(units={unit.lu: unit}, maps=(), resolve=resolve)

    def moves(self, observer=None, **options):
        """The verbs on this host; those of another host's Moves are over."""
        host = self

        class Paths:
            """prtrace.move.device.Paths over the small target."""

            def __init__(self, side, until=None, parser_of=None):
                self.side, self.attentions, self.reads, self.writes = side, [], 0, 0
                self.until = until

            @property
            def late(self):
                return self.until is not None and time.monotonic() >= self.until

            def __enter__(self):
                return self

            def __exit__(self, *_error):
                pass

            def persists(self):
                return False

            def look(self, other):
                target = host.target
                if target.blind:
                    held = None if target.kind is None else target.keys[target.holder]
                    return of_keys(target.generation, target.keys.values(), target.kind, held)
                return of_full_status(
                    target.generation,
                    target.statuses(),
                    self.side.nexuses,
                    other,
                    self.side.target,
                )

            def send(self, command, *, aptpl):
                assert not aptpl
                self.writes += 1
                return host.target.send(host.paths[command.nexus], command)

        self.monkeypatch.setattr(verbs, "Paths", Paths)
        self.monkeypatch.setattr(verbs, "scan", lambda names_in: self._inventory())
        return verbs.Moves(MoveOptions(state_dir=self.folder, **options), observer)

    def observer(self):
        """An agent that has just read the target."""
        host = self

        class Observer:
            """prtrace.move.knowledge.Observer."""

            def units(self, lus):
                own = [each.nexus for each in host.unit.nexuses]
                read = FullStatusRead(
                    lu=LU,
                    nexus=own[0],
                    time=1,
                    generation=host.target.generation,
                    registrations=host.target.statuses(),
                    truncated=False,
                    paths=host.unit.nexuses,
                )
                state = apply(new_state(LU, host.kind, 1), read).state
                return [unit_view(state, host.unit, 1)]

            def events(self, lu):
                return iter(())

        return Observer()

    def file(self, kind=None, *, held=False, key=K, order=1000):
        """What save would have written here."""
        paths = tuple(
            SavedPath(
                each.nexus,
                each.device,
                each.initiator_port,
                each.relative_target_port,
                key is not None,
            )
            for each in self.unit.nexuses
        )
        unit = SavedUnit(
            LU,
            "/dev/sda",
            self.kind,
            key,
            kind,
            held,
            self.target.generation,
            "observed",
            paths,
            (),
        )
        file = SaveFile(f"{order:032x}", order, 10**18, "s", "", (unit,))
        return savefile.parse(file.dump())
