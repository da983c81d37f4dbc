"""Every order of hook calls, plugin calls, events, answers, restarts and losses, for one guest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from explore.libvirt_world import BrokenError, Explorer, Setting, Stepper, settings

from prtrace.libvirt.machine import (
    Acquires,
    Act,
    AgentSaid,
    Answer,
    Ended,
    GuestRecord,
    Input,
    MoveCall,
    MovePolicy,
    Phase,
    Runs,
    Stepped,
    step,
)


@pytest.mark.parametrize("setting", list(settings()), ids=str)
def test_no_order_breaks_an_invariant(setting: Setting) -> None:
    explorer = Explorer(setting)
    explorer.run()
    print(f"{setting}: {explorer.states} states, {explorer.transitions} transitions")
    assert explorer.states > 50


def _good(told: AgentSaid, *answers: Answer) -> AgentSaid:
    return replace(told, answer=Answer.GOOD) if told.answer in answers else told


def _believes_doubt(record: GuestRecord, given: Input, policy: MovePolicy) -> Stepped:
    """An answer in doubt, or none at all, lets the guest go on."""
    if isinstance(given, AgentSaid):
        given = _good(given, Answer.DOUBT, Answer.SILENT)
    return step(record, given, policy)


def _finishes_without_proof(record: GuestRecord, given: Input, policy: MovePolicy) -> Stepped:
    """A QEMU that ended is taken for a guest that left."""
    if isinstance(given, Ended) and record.phase is Phase.HOME:
        given = Ended(migrated=True)
    return step(record, given, policy)


def _forgets_what_it_prepared(record: GuestRecord, given: Input, policy: MovePolicy) -> Stepped:
    """An incoming QEMU that ended leaves nothing to do."""
    if isinstance(given, Ended) and record.phase is Phase.PREPARED:
        return GuestRecord(), ()
    return step(record, given, policy)


def _withdraws_beside_the_guest(record: GuestRecord, given: Input, policy: MovePolicy) -> Stepped:
    """A guest that is seen here is taken for one that does not come."""
    if isinstance(given, Runs) and record.phase is Phase.PREPARED:
        given = Ended()
    return step(record, given, policy)


def _lets_go_on_after_a_failure(record: GuestRecord, given: Input, policy: MovePolicy) -> Stepped:
    """S's guest goes on after a migration that failed in the pause, and nobody is asked."""
    if isinstance(given, Acquires):
        record = replace(record, phase=Phase.HOME)
        given = Acquires()
    return step(record, given, policy)


def _pauses_nobody(record: GuestRecord, given: Input, policy: MovePolicy) -> Stepped:
    """A guest that runs on D without proof goes on."""
    after, outputs = step(record, given, policy)
    return after, tuple(each for each in outputs if each is not Act.PAUSE)


def _keeps_quiet_about_a_failed_withdrawal(
    record: GuestRecord, given: Input, policy: MovePolicy
) -> Stepped:
    """What could not be withdrawn is forgotten."""
    if isinstance(given, AgentSaid) and given.call is MoveCall.WITHDRAW:
        given = _good(given, Answer.LATER, Answer.DOUBT, Answer.SILENT)
    return step(record, given, policy)


@pytest.mark.parametrize(
    "mutant",
    [
        _believes_doubt,
        _finishes_without_proof,
        _forgets_what_it_prepared,
        _withdraws_beside_the_guest,
        _lets_go_on_after_a_failure,
        _pauses_nobody,
        _keeps_quiet_about_a_failed_withdrawal,
    ],
)
def test_a_machine_without_a_rule_is_found_out(mutant: Stepper) -> None:
    def explore_all() -> None:
        for setting in settings():
            Explorer(setting, mutant).run()

    with pytest.raises(BrokenError):
        explore_all()
