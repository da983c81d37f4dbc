"""Every order of hook calls, plugin calls, events, answers, restarts and losses, for one guest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from explore.libvirt_world import BrokenError, Explorer, Setting, Stepper, World, settings

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
    once = explorer.states
    explorer.run(tries=1, faults=1)
    print(f"{setting}: {explorer.states} states, {explorer.transitions} transitions")
    assert once > 50
    assert explorer.states > once + 1000


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


def _forgets_at_the_first_end(record: GuestRecord, given: Input, policy: MovePolicy) -> Stepped:
    """An end of which libvirt does not say where the guest is now ends the move."""
    if isinstance(given, Ended) and record.phase is Phase.RECLAIMING and not given.migrated:
        return GuestRecord(), (Act.FORGET,)
    return step(record, given, policy)


def _forgets_the_file_after_a_rollback(
    record: GuestRecord, given: Input, policy: MovePolicy
) -> Stepped:
    """A guest that leaves before its next note has nothing to finish with."""
    after, outputs = step(record, given, policy)
    if isinstance(given, AgentSaid) and given.call is MoveCall.RECLAIM and Act.NOTE in outputs:
        outputs = (Act.FORGET, *outputs)
    return after, outputs


def _takes_a_late_finish_for_done(
    record: GuestRecord, given: Input, policy: MovePolicy
) -> Stepped:
    """What the agent takes for a late call is taken for one that was carried out."""
    if isinstance(given, AgentSaid) and given.call is MoveCall.FINISH:
        given = _good(given, Answer.SPENT)
    return step(record, given, policy)


@pytest.mark.parametrize(
    ("mutant", "plugin"),
    [
        (_believes_doubt, False),
        (_finishes_without_proof, False),
        (_forgets_what_it_prepared, False),
        (_withdraws_beside_the_guest, False),
        (_lets_go_on_after_a_failure, True),
        (_pauses_nobody, False),
        (_keeps_quiet_about_a_failed_withdrawal, False),
        (_forgets_at_the_first_end, True),
        (_forgets_the_file_after_a_rollback, True),
        (_takes_a_late_finish_for_done, False),
    ],
)
def test_a_machine_without_a_rule_is_found_out(mutant: Stepper, plugin: bool) -> None:
    """plugin: where the rule matters."""

    def explore_all() -> None:
        for setting in settings():
            if setting.plugin is plugin:
                Explorer(setting, mutant).run(tries=1, faults=1)

    with pytest.raises(BrokenError):
        explore_all()


class Unmarked(Explorer):
    """S's service does not mark a guest that was paused before it was migrated."""

    def marks(self, world: World) -> World:
        return replace(world, passes=False)


def test_a_paused_guest_that_nobody_marks_is_found_out() -> None:
    def explore_all() -> None:
        for setting in settings():
            if setting.paused:
                Unmarked(setting).run()

    with pytest.raises(BrokenError, match="on S without the agent's word"):
        explore_all()
