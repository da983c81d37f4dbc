"""What `show` says about a state."""

import json
from dataclasses import replace
from types import MappingProxyType

import pytest
from shipped import valid

from prtrace.cli.unit import unit_lines
from prtrace.model import Attention, IssuePath, Issuer, LocalNexus, LogicalUnit, ReservationType
from prtrace.state.apply import new_state
from prtrace.state.unit import (
    Confirmation,
    Doubt,
    Expected,
    Fact,
    LuState,
    Registration,
    Reservation,
    Source,
)
from prtrace.state.view import show_view, unit_view

NOW = 1_700_000_000_000_000_000
REMOTE = "iqn.2003-01.org.example:other,i,0x00023d000001,1"

UNIT = LogicalUnit(
    "naa.6001405",
    "LIO-ORG ",
    "disk1           ",
    "4.0 ",
    nexuses=(
        LocalNexus("2:0:0:1", "naa.6001405", "/dev/sda", "/dev/sg0", "", "naa.1", "naa.2", 3),
        LocalNexus("3:0:0:1", "naa.6001405", "", "/dev/sg1"),
    ),
    devices=("/dev/sda", "/dev/sg0", "/dev/sg1", "/dev/mapper/mpatha"),
)
ISSUER = Issuer(4711, "qemu-kvm", 1, 2, IssuePath.BLOCK_SG_IO, "253:0", "web1")
LOCAL = Registration("2:0:0:1", 0x123ABC, True, Source.OBSERVED, NOW, ISSUER)
NODELESS = Registration("3:0:0:1", 0x123ABC, True, Source.OBSERVED, NOW)
ELSEWHERE = Registration(REMOTE, 1, False, Source.READ, NOW, None, REMOTE.rpartition(",")[0], 1)


def state(*registrations, **fields):
    by_nexus = {each.nexus: each for each in registrations}
    fields = {"generation": 7, "registrations": MappingProxyType(by_nexus)} | fields
    return LuState("naa.6001405", **fields)


def view(a_state, unit=UNIT):
    shown = unit_view(a_state, unit, NOW)
    valid(json.loads(json.dumps(show_view([shown], "here"))), "show.1")
    return shown


def test_a_local_nexus_has_its_device_and_ports_from_sysfs():
    shown = view(state(LOCAL, NODELESS, ELSEWHERE))["registrations"]
    assert shown[0] == {
        "nexus": "2:0:0:1",
        "local": True,
        "key": "0x0000000000123abc",
        "device": "/dev/sda",
        "initiator_port": "naa.1",
        "relative_target_port": 3,
        "source": "observed",
        "at": "2023-11-14T22:13:20.000000000Z",
        "by": {
            "pid": 4711,
            "comm": "qemu-kvm",
            "process_start_ns": 1,
            "guest": "web1",
            "uuid": None,
            "client_pid": None,
            "client_comm": None,
            "path": "SG_IO block",
            "requested": "253:0",
        },
        "maybe_local": False,
    }
    assert (shown[1]["device"], shown[1]["initiator_port"], shown[1]["by"]) == (None, None, None)
    assert (shown[2]["nexus"], shown[2]["local"], shown[2]["device"]) == (REMOTE, False, None)
    assert shown[2]["relative_target_port"] == 1
    assert shown[2]["source"] == "read"


def test_a_reservation_names_its_holder():
    held = Reservation(ReservationType.WERO, 0, "2:0:0:1", 0x123ABC, Source.OBSERVED, NOW, ISSUER)
    shown = view(state(LOCAL, ELSEWHERE, reservation=held))
    assert shown["doubt"] == []
    reservation = shown["reservation"]
    assert {name: reservation[name] for name in ("type", "type_code", "scope", "key")} == {
        "type": "WERO",
        "type_code": 5,
        "scope": "LU",
        "key": "0x0000000000123abc",
    }
    assert reservation["holders"] == ["2:0:0:1"]


def test_every_registrant_holds_an_all_registrants_reservation():
    held = Reservation(ReservationType.EAAR, 0, None, 0, Source.READ, NOW)
    shown = view(state(LOCAL, ELSEWHERE, reservation=held))["reservation"]
    assert shown["holders"] == ["2:0:0:1", REMOTE]
    assert shown["key"] == "0x0000000000000000"


def test_what_is_not_known_is_never_shown_as_certain():
    held = Reservation(ReservationType.WE, 0, None, None, Source.READ, NOW)
    shown = view(state(reservation=held, generation=None, unattributed=(5, 5)))
    assert shown["reservation"]["key"] is None
    assert shown["reservation"]["holders"] == []
    assert shown["generation"] is None
    assert shown["unattributed_keys"] == ["0x0000000000000005"] * 2
    assert {doubt["what"] for doubt in shown["doubt"]} == {
        "reservation",
        "generation",
        "registrations",
    }


def test_doubts_of_the_state_are_not_repeated():
    doubts = tuple(Doubt(fact, "host error", NOW) for fact in Fact)
    held = Reservation(ReservationType.WE, 0, None, None, Source.READ, NOW)
    shown = view(state(reservation=held, generation=None, unattributed=(5,), doubts=doubts))
    assert [(each["what"], each["reason"]) for each in shown["doubt"]] == [
        (fact.value, "host error") for fact in Fact
    ]


def test_a_unit_that_was_never_seen_is_all_in_doubt():
    shown = view(new_state("naa.6001405", "", NOW))
    assert len(shown["doubt"]) == 3
    assert shown["target"] == "LIO-ORG/disk1/4.0"


def test_a_unit_that_is_gone_keeps_its_state():
    shown = view(state(LOCAL), None)
    assert shown["devices"] == shown["nexuses"] == []
    assert shown["present"] is False
    assert shown["registrations"][0]["device"] is None


def test_what_is_expected_is_told():
    waiting = state(
        LOCAL,
        legacy_holder="2:0:0:1",
        expected=MappingProxyType(
            {"2:0:0:1": (Expected(Attention.RESERVATIONS_RELEASED, 7),), "x": ()}
        ),
    )
    shown = view(replace(waiting, target="A/B/C"))
    assert shown["expected_attentions"] == {"2:0:0:1": ["RESERVATIONS_RELEASED"]}
    assert shown["legacy_reservation"] == "2:0:0:1"
    assert shown["target"] == "A/B/C"


HELD = Reservation(ReservationType.WERO, 0, "2:0:0:1", 0x123ABC, Source.OBSERVED, NOW)


def test_each_path_is_told_registered_or_not_and_what_it_may_do():
    """A path without a registration beside one that has one is a common fault of a cluster."""
    shown = view(state(LOCAL, reservation=HELD))["nexuses"]
    told = [(p["nexus"], p["registered"], p["may_read"], p["may_write"]) for p in shown]
    assert told == [("2:0:0:1", True, True, True), ("3:0:0:1", False, True, False)]
    assert shown[0]["key"] == "0x0000000000123abc"
    assert shown[1]["key"] is None
    assert "not registered" in shown[1]["why_write"]


def test_a_path_that_runs_shows_its_access_state():
    alua = {"2:0:0:1": "standby", "3:0:0:1": ""}
    running = replace(UNIT, nexuses=tuple(replace(p, state="running") for p in UNIT.nexuses))
    shown = unit_view(state(LOCAL, reservation=HELD), running, NOW, alua)
    assert [path["alua"] for path in shown["nexuses"]] == ["standby", None]
    text = [line for line in unit_lines(shown) if "/dev/sda " in line][-1]
    assert text.endswith("  standby")


def test_what_a_path_may_do_is_not_told_in_doubt():
    doubts = (Doubt(Fact.REGISTRATIONS, "lost", NOW), Doubt(Fact.RESERVATION, "lost", NOW))
    shown = view(state(LOCAL, reservation=HELD, doubts=doubts))["nexuses"]
    assert all(path["may_write"] is None for path in shown)
    assert all(path["registered"] is None for path in shown)


def test_whose_keys_they_are_cannot_be_known_without_read_full_status():
    """A device without READ FULL STATUS tells no more than that, so it is not a doubt."""
    known = state(
        LOCAL, unattributed=(5, 6), names_nexuses=False, reservation=replace(HELD, holder=None)
    )
    shown = view(known)
    assert shown["doubt"] == []
    assert [each["what"] for each in shown["unknowable"]] == ["registrations", "reservation"]


def test_a_holder_that_may_be_here_is_not_called_another_host():
    """The registration may be that of a path here whose port names are not known."""
    maybe = replace(ELSEWHERE, maybe_local=True)
    shown = view(state(maybe, reservation=replace(HELD, holder=maybe.nexus)))
    (told,) = shown["unknowable"]
    assert "whether" in told["reason"]
    text = " ".join(" ".join(unit_lines(shown)).split())
    assert "here or elsewhere" in text
    assert "another host" not in text


@pytest.mark.parametrize(
    ("aptpl", "words"), [(True, "survive"), (False, "are lost"), (None, "not known")]
)
def test_what_a_loss_of_power_will_do(aptpl, words):
    shown = view(state(LOCAL, aptpl=aptpl))
    assert shown["aptpl"] is aptpl
    assert words in " ".join(unit_lines(shown))


def test_the_age_stands_at_the_top_in_words():
    how = Confirmation(NOW, "READ FULL STATUS", "2:0:0:1")
    shown = view(state(LOCAL, confirmed=MappingProxyType(dict.fromkeys(Fact, how))))
    assert shown["as_of"] == "2023-11-14T22:13:20.000000000Z"
    lines = unit_lines(shown)
    assert lines[2].startswith("  as of         2023-11-1")
    assert "READ FULL STATUS over 2:0:0:1" in " ".join(lines)
    assert "what other hosts did since is not seen" in " ".join(lines)
    assert view(state(LOCAL))["as_of"] is None
    assert "never confirmed by the device" in " ".join(unit_lines(view(state(LOCAL))))


def test_a_path_without_a_disk_is_not_gone():
    """A tape, an enclosure, or a disk that no driver is bound to."""
    text = "\n".join(unit_lines(view(state(LOCAL, NODELESS))))
    assert "/dev/sg1" in text
    assert "gone" not in text
    assert "gone" in "\n".join(unit_lines(view(state(NODELESS), None)))


def test_what_has_no_reservations_may_be_in_doubt_about_it():
    doubt = Doubt(Fact.RESERVATION, "a command is under way", NOW)
    text = "\n".join(unit_lines(view(state(supported=False, doubts=(doubt,)))))
    assert "IN DOUBT" in text
    assert "the device has none" in "\n".join(unit_lines(view(state(supported=False))))
