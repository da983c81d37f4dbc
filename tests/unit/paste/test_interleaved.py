"""The kernel's log while several processors print: lines of two commands are never joined."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from prtrace.paste.kernel import read
from prtrace.paste.recorded import Import
from prtrace.paste.stamp import Clock
from prtrace.state.event import Command as Kind

DISKS = {"1:0:0:0": "sda", "2:0:0:0": "sdb", "2:0:0:1": "sdc"}
SENSE = {("Medium Error", "ASC=0x11 ASCQ=0x4"): (3, 0x11, 4),
         ("Unit Attention", "Registrations preempted"): (6, 0x2A, 5)}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """One command that failed, and what the kernel prints of it."""

    nexus: str
    tag: int
    block: int
    end: str | tuple[str, str]
    """"conflict", "quiet" (a passthrough command's conflict), a host byte, or sense in words."""
    logged: bool
    """Whether scsi_logging_level has its sending logged."""

    @property
    def cdb(self):
        return bytes((0x2A, 0)) + self.block.to_bytes(4, "big") + bytes((0, 0, 8, 0))

    def lines(self):
        sd, disk = f"sd {self.nexus}:", DISKS[self.nexus]
        tagged = f"{sd} [{disk}] tag#{self.tag}"
        cdb = f"{tagged} CDB: Write(10) {self.cdb.hex(' ')}"
        found = [f"{tagged} Send: scmd 0x00000000b956eebd", cdb] if self.logged else []
        if self.end in ("conflict", "quiet"):
            found.append(f"{sd} reservation conflict")
        if self.end == "quiet":
            return found
        byte = self.end if str(self.end).startswith("DID_") else "DID_OK"
        found.append(f"{tagged} FAILED Result: hostbyte={byte} driverbyte=DRIVER_OK cmd_age=0s")
        if isinstance(self.end, tuple):
            key, code = self.end
            found += [f"{tagged} Sense Key : {key} [current]", f"{tagged} Add. Sense: {code}"]
        found.append(cdb)
        if self.end == "conflict":
            found.append(
                f"reservation conflict error, dev {disk}, sector {self.block} op 0x1:(WRITE)"
            )
        return found


COMMANDS = st.lists(
    st.builds(
        Command,
        nexus=st.sampled_from(list(DISKS)),
        tag=st.integers(0, 2),
        block=st.integers(0, 3).map(lambda each: 8 * each),
        end=st.sampled_from(["conflict", "quiet", "DID_NO_CONNECT", *SENSE]),
        logged=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@st.composite
def logs(draw):
    """Commands, and their lines in an order in which they can have been printed."""
    commands = draw(COMMANDS)
    waiting = [command.lines() for command in commands]
    printed = []
    while any(waiting):
        beside = draw(st.sampled_from([each for each in waiting if each]))
        printed.append(beside.pop(0))
    stamped = [
        f"2026-11-27T12:00:00.{at:06}+00:00 host kernel: {line}" for at, line in enumerate(printed)
    ]
    return commands, stamped


@given(logs())
def test_lines_of_two_commands_are_never_joined(log):
    commands, lines = log
    for seen in read(lines):
        if seen.cdb and seen.triple is not None:
            triple = (seen.triple.key, seen.triple.asc, seen.triple.ascq)
            assert any(
                (each.nexus, each.cdb, SENSE.get(each.end)) == (seen.nexus, seen.cdb, triple)
                for each in commands
            )
        if seen.cdb and seen.host_byte:
            assert any(
                (each.nexus, each.cdb, each.end) == (seen.nexus, seen.cdb, seen.host_byte)
                for each in commands
            )
        if seen.cdb:
            told = [(each.nexus, each.cdb) for each in commands]
            if seen.status == 0x18:
                # Only the block layer says which command it was.
                told = [(each.nexus, each.cdb) for each in commands if each.end == "conflict"]
            assert (seen.nexus, seen.cdb) in told
        if seen.triple is not None and seen.triple.asc is not None:
            told = (seen.nexus, (seen.triple.key, seen.triple.asc, seen.triple.ascq))
            assert told in [(each.nexus, SENSE.get(each.end)) for each in commands]


@given(logs())
def test_each_conflict_is_counted_once(log):
    commands, lines = log
    found = Import()
    found.add(read(lines), Clock(), {})
    conflicts = [each for each in found.numbered() if each.command is Kind.CONFLICT]
    for nexus in DISKS:
        answered = [each for each in commands if each.nexus == nexus
                    and each.end in ("conflict", "quiet")]  # fmt: skip
        assert len([each for each in conflicts if each.nexus == nexus]) == len(answered)


@given(logs())
def test_a_command_alone_on_its_tag_is_whole(log):
    commands, lines = log
    seen = list(read(lines))
    for command in commands:
        beside = [each for each in commands
                  if (each.nexus, each.tag) == (command.nexus, command.tag)]  # fmt: skip
        if len(beside) == 1 and isinstance(command.end, tuple):
            assert [
                each.triple.key
                for each in seen
                if (each.nexus, each.cdb) == (command.nexus, command.cdb) and each.triple
                and (each.triple.key, each.triple.asc, each.triple.ascq) == SENSE[command.end]
            ]  # fmt: skip
