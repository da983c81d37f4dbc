"""prtrace watch."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from prtrace.api.client import Client
from prtrace.cli.events import event_lines
from prtrace.cli.options import socket_option
from prtrace.cli.text import clock, plain
from prtrace.errors import AgentUnreachableError, PrtraceError, UnavailableError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_KEPT: Final = 500
"""Events that are remembered: more lines than a terminal has."""
_FRESH_SECONDS: Final = 1.0
"""Between two questions for the state while nothing happens."""
_STYLES: Final = {"RESERVATION CONFLICT": "red", "CHECK CONDITION": "yellow"}
_MAY: Final = {True: "yes", False: "NO", None: "?"}


@click.command(
    "watch",
    epilog="""\b
Needs rich (python3-rich).  Ctrl-C ends it.
\b
Examples:
  prtrace watch                     all units of this host
  prtrace watch /dev/sda            one of them
  prtrace watch --socket PATH       of another agent
""",
)
@click.argument("devices", metavar="[DEVICE]...", nargs=-1)
@socket_option
def command(devices: tuple[str, ...], *, socket: str) -> None:
    """Show the state of units on the terminal, and what happens to them.

    Who holds, who is registered, what each path may do, and below it the
    newest events, all as it changes.
    """
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise UsageError(
            "watch draws on a terminal, and this is none",
            hint="prtrace events --follow prints to pipes and files",
        )
    try:
        import rich  # noqa: F401  # a small part of prtrace needs it, and it is slow to import
    except ImportError as error:
        raise UnavailableError(
            "watch draws with rich, which is not installed", hint="apt-get install python3-rich"
        ) from error
    # Ask before the alternate screen is opened: an error of the request stays readable then.
    view = _View(Client(socket), devices)
    view.ask()
    signal.signal(signal.SIGTERM, _interrupt)
    view.run()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _View:
    """What is on the screen."""

    def __init__(self, client: Client, devices: tuple[str, ...]) -> None:
        self._client = client
        self._devices = list(devices)
        self._units: list[Mapping[str, Any]] = []
        self._host = ""
        self._asked = ""
        self._trouble = ""
        self._events: deque[Mapping[str, Any]] = deque(maxlen=_KEPT)
        self._happened = threading.Event()

    def ask(self) -> None:
        """Ask for the state; raises where the agent says that the question is wrong."""
        told = self._client.call("Show", devices=self._devices or None)
        self._units, self._host = told["units"], told["host"]
        self._asked = datetime.now().astimezone().isoformat()

    def run(self) -> None:
        """Draw until Ctrl-C."""
        from rich.console import Console
        from rich.live import Live

        threading.Thread(target=self._follow, daemon=True).start()
        console = Console(highlight=False, markup=False, emoji=False)
        try:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while True:
                    # The terminal's own: COLUMNS, which rich would take, stays as it was.
                    console.size = os.get_terminal_size(sys.stdout.fileno())
                    live.update(self.drawn(console.width, console.height), refresh=True)
                    self._happened.wait(_FRESH_SECONDS)
                    self._happened.clear()
                    self._ask_again()
        except KeyboardInterrupt:
            return

    def _ask_again(self) -> None:
        try:
            self.ask()
            self._trouble = ""
        except AgentUnreachableError:
            self._trouble = "no agent answers: this is how it was"
        except PrtraceError as error:
            self._trouble = error.message

    def _follow(self) -> None:
        """Take events as they come, from a new connection where one ends."""
        since: int | None = None
        while True:
            try:
                for reply in self._client.stream(
                    "Events",
                    patient=True,
                    devices=self._devices or None,
                    last=_KEPT if since is None else None,
                    since_seq=since or 0,
                    follow=True,
                ):
                    for event in reply.get("events", ()):
                        self._events.append(event)
                        since = event["seq"]
                    self._happened.set()
            except PrtraceError:
                pass
            time.sleep(_FRESH_SECONDS)

    def drawn(self, columns: int, rows: int) -> RenderableType:
        """The screen, in so many columns and rows."""
        from rich.text import Text

        head = list(self._head())
        head = head[: max(rows * 2 // 3, 1)]
        room = max(rows - len(head) - 2, 0)
        tail = list(self._newest(columns))[-room:] if room else []
        title = Text(f"── events {'─' * max(columns - 10, 0)}"[:columns], style="dim")
        lines = [*head, title, *tail][:rows]
        for each in lines:
            each.truncate(columns, overflow="ellipsis")
        return Text("\n").join(lines)

    def _head(self) -> Iterator[Text]:
        from rich.text import Text

        when = clock(self._asked) if self._asked else ""
        yield Text(plain(f"prtrace on {self._host}  {when}  Ctrl-C ends"), style="bold")
        if self._trouble:
            yield Text(plain(self._trouble), style="bold red")
        for unit in self._units:
            yield Text("")
            yield from drawn_unit(unit)

    def _newest(self, columns: int) -> Iterator[Text]:
        from rich.text import Text

        for event in list(self._events):
            moment = datetime.fromisoformat(event["time"]).astimezone()
            style = _STYLES.get(event["status"] or "", "")
            for text in event_lines(event, moment, max(columns, 40)):
                yield Text(text, style=style)


def drawn_unit(unit: Mapping[str, Any]) -> Iterator[Text]:
    """The lines of a unit, an element of prtrace.show/1's units."""
    from rich.text import Text

    yield Text(plain(f"{unit['lu']}  {unit['target']}"), style="bold")
    for doubt in unit["doubt"]:
        yield Text(plain(f"  IN DOUBT {doubt['what']}: {doubt['reason']}"), style="yellow")
    held = unit["reservation"]
    doubted = any(doubt["what"] == "reservation" for doubt in unit["doubt"])
    mark = " (in doubt)" if doubted else ""
    if unit["legacy_reservation"] is not None:
        holder = unit["legacy_reservation"]
        yield Text(plain(f"  SPC-2 RESERVE by {holder}{mark}"), style="cyan")
    elif held is None:
        yield Text("  what is reserved is not known" if doubted else "  nothing is reserved")
    else:
        everybody = held["type"] in ("WEAR", "EAAR")
        holders = "every registrant" if everybody else ", ".join(held["holders"]) or "not known"
        yield Text(plain(f"  {held['type']} held by {holders}{mark}"), style="cyan")
    for each in unit["registrations"]:
        where = each["device"] or each["initiator_port"] or each["nexus"]
        yield Text(plain(f"  {each['key']} {where}"))
    for key in unit.get("unattributed_keys") or ():
        yield Text(plain(f"  {key} on a nexus that is not known"))
    for path in unit["nexuses"]:
        if "may_write" in path:
            name = path["device"] or path["sg"] or path["nexus"]
            may = f"read {_MAY[path['may_read']]}, write {_MAY[path['may_write']]}"
            yield Text(
                plain(f"  {name}: {may}"), style="red" if path["may_write"] is False else "green"
            )
