"""Who may do what."""

import json

import pytest

from prtrace.api import calls
from prtrace.api.address import MAX_CALL, MAX_CHANGE_CALL
from prtrace.api.calls import Calls, Refusal
from prtrace.api.rights import Right, may
from prtrace.linux.peer import Peer

ROOT = Peer(1, 0, 0)
USER = Peer(2, 1000, 1000, frozenset({4, 27}))


@pytest.mark.parametrize(
    ("peer", "admin_gid", "allowed"),
    [
        (ROOT, None, True),
        (ROOT, 27, True),
        (USER, None, False),
        (USER, 0, False),
        (USER, 5, False),
        (USER, 27, True),
        (USER, 1000, True),
    ],
)
def test_changing_needs_root_or_the_group(peer, admin_gid, allowed):
    assert may(peer, Right.CHANGE, admin_gid) is allowed
    assert may(peer, Right.READ, admin_gid)


def test_a_method_without_an_entry_may_be_called_by_nobody(monkeypatch):
    monkeypatch.setattr(calls, "RIGHTS", {})
    with pytest.raises(Refusal) as refused:
        Calls().parse(b'{"method":"io.prtrace.Show"}', ROOT)
    assert json.loads(refused.value.reply[:-1])["error"] == "io.prtrace.PermissionDenied"


def test_what_changes_is_checked(monkeypatch):
    monkeypatch.setattr(calls, "RIGHTS", {"io.prtrace.Show": Right.CHANGE})
    message = b'{"method":"io.prtrace.Show"}'
    assert Calls(27).parse(message, USER).method == "io.prtrace.Show"
    with pytest.raises(Refusal):
        Calls(5).parse(message, USER)


def test_who_may_only_read_is_known_for_it():
    message = b'{"method":"io.prtrace.Check","parameters":{"devices":[]}}'
    assert Calls(5).parse(message, USER).peer_may is Right.READ
    assert Calls(5).parse(message, ROOT).peer_may is Right.CHANGE


def test_only_who_may_change_sends_long_calls():
    assert Calls(27).longest(USER) == MAX_CHANGE_CALL
    assert Calls(5).longest(USER) == MAX_CALL


CHANGING = (
    "Refresh", "CheckFile", "Save", "Prepare", "Load", "LateCommit", "Release", "Rollback",
    "Finish",
)  # fmt: skip


@pytest.mark.parametrize("method", CHANGING)
def test_moving_is_for_root_and_the_group(method):
    given = {"devices": ["/dev/sda"]} if method in ("Save", "Refresh") else {"file": {}}
    if method == "Refresh":
        given["max_age"] = 5
    more = method in ("Prepare", "Load", "LateCommit", "Rollback")
    call = {"method": f"io.prtrace.{method}", "parameters": given, "more": more}
    message = json.dumps(call).encode()
    for peer, admin_gid in ((ROOT, None), (USER, 27)):
        call = Calls(admin_gid).parse(message, peer)
        assert (call.parameters, call.peer_may) == (given, Right.CHANGE)
    with pytest.raises(Refusal) as refused:
        Calls(None).parse(message, USER)
    assert json.loads(refused.value.reply[:-1])["error"] == "io.prtrace.PermissionDenied"


def test_every_declared_method_has_a_right():
    reading = ("Show", "Events", "Status", "Resolve", "Check", "Moves")
    declared = {f"io.prtrace.{name}" for name in (*reading, *CHANGING)}
    service = {f"org.varlink.service.{n}" for n in ("GetInfo", "GetInterfaceDescription")}
    assert set(calls.RIGHTS) == declared | service
