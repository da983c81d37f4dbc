"""Single steps; what holds in every order is looked for in tests/explore/test_libvirt.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prtrace.libvirt.machine import (
    Acquires,
    Act,
    AgentSaid,
    Announced,
    Answer,
    Ask,
    Caller,
    Ended,
    Given,
    GuestRecord,
    Input,
    MoveCall,
    MovePolicy,
    Output,
    Permission,
    Phase,
    Runs,
    Started,
    Waits,
    step,
)

STRICT = MovePolicy()
COMES = Started(Given.FILE, incoming=True)
NOT_GOOD = [answer for answer in Answer if answer is not Answer.GOOD]


def at(phase: Phase, **fields: bool) -> GuestRecord:
    return replace(GuestRecord(), phase=phase, **fields)


def outputs(record: GuestRecord, given: object, policy: MovePolicy = STRICT) -> tuple[Output, ...]:
    return step(record, given, policy)[1]  # type: ignore[arg-type]


def replies(found: tuple[Output, ...]) -> list[bool]:
    return [each.allow for each in found if isinstance(each, Permission)]


def test_migrate_begin_only_looks() -> None:
    record, found = step(GuestRecord(), Announced(Given.FILE), STRICT)
    assert found == (Ask(MoveCall.LOOK, new=True),)
    assert record.phase is Phase.HOME


@pytest.mark.parametrize("answer", NOT_GOOD)
def test_migrate_begin_is_refused_without_a_good_look(answer: Answer) -> None:
    record, _ = step(GuestRecord(), Announced(Given.FILE), STRICT)
    record, found = step(record, AgentSaid(MoveCall.LOOK, answer, "why"), STRICT)
    assert found == (Permission(False, "why"),)
    assert not record.announced


@pytest.mark.parametrize("given", [Announced(Given.NO_NOTE), Started(Given.NO_NOTE, True)])
def test_a_guest_without_a_note_is_a_matter_of_policy(given: object) -> None:
    assert replies(outputs(GuestRecord(), given)) == [False]
    assert replies(outputs(GuestRecord(), given, MovePolicy(without_note=True))) == [True]


@pytest.mark.parametrize("given", [Announced(Given.BLOCKED), Started(Given.BLOCKED, True)])
def test_what_cannot_move_does_not_come_by_any_policy(given: object) -> None:
    found = outputs(GuestRecord(), given, MovePolicy(without_note=True, late=True))
    assert replies(found) == [False]


@pytest.mark.parametrize(
    ("asks", "suspended", "late", "comes"),
    [
        (False, False, False, False),
        (True, False, False, True),
        (False, True, False, True),
        (False, False, True, True),
    ],
)
def test_a_holder_comes_where_something_commits(
    asks: bool, suspended: bool, late: bool, comes: bool
) -> None:
    given = replace(COMES, asks=asks, suspended=suspended, holds=True)
    found = outputs(GuestRecord(), given, MovePolicy(late=late))
    assert (Ask(MoveCall.PREPARE) in found) is comes


@pytest.mark.parametrize(("asks", "comes"), [(False, False), (True, True)])
def test_post_copy_needs_the_plugin(asks: bool, comes: bool) -> None:
    found = outputs(GuestRecord(), replace(COMES, postcopy=True, asks=asks))
    assert (Ask(MoveCall.PREPARE) in found) is comes


@pytest.mark.parametrize(("announced", "comes"), [(False, False), (True, True)])
def test_what_libvirts_status_does_not_say_the_announcement_does(
    announced: bool, comes: bool
) -> None:
    found = outputs(replace(GuestRecord(), announced=announced), replace(COMES, incoming=None))
    assert (Ask(MoveCall.PREPARE) in found) is comes


@pytest.mark.parametrize("answer", NOT_GOOD)
def test_a_prepare_that_is_not_good_refuses_and_withdraws(answer: Answer) -> None:
    record, _ = step(GuestRecord(), COMES, STRICT)
    record, found = step(record, AgentSaid(MoveCall.PREPARE, answer, "why"), STRICT)
    assert found == (Permission(False, "why"), Ask(MoveCall.WITHDRAW))
    assert record.phase is Phase.WITHDRAWING


def test_an_old_move_ends_before_a_new_one_begins() -> None:
    record, found = step(at(Phase.PREPARED), COMES, STRICT)
    assert found == (Ask(MoveCall.WITHDRAW),)
    record, found = step(record, AgentSaid(MoveCall.WITHDRAW, Answer.GOOD), STRICT)
    assert found == (Act.ADOPT, Ask(MoveCall.PREPARE))
    assert (record.phase, record.caller) == (Phase.PREPARING, Caller.COMES)


@pytest.mark.parametrize("answer", [Answer.LATER, Answer.DOUBT, Answer.SILENT, Answer.REFUSED])
def test_a_new_move_does_not_begin_over_an_old_one(answer: Answer) -> None:
    record, _ = step(at(Phase.PREPARED), COMES, STRICT)
    record, found = step(record, AgentSaid(MoveCall.WITHDRAW, answer), STRICT)
    assert replies(found) == [False]
    assert record.phase is Phase.WITHDRAWING


def test_the_plugin_commits() -> None:
    record, found = step(at(Phase.PREPARED), Acquires(), STRICT)
    assert found == (Ask(MoveCall.COMMIT),)
    record, found = step(record, AgentSaid(MoveCall.COMMIT, Answer.GOOD), STRICT)
    assert (record.phase, replies(found)) == (Phase.COMMITTED, [True])
    record, found = step(record, Runs(), STRICT)
    assert (record, found) == (GuestRecord(), (Act.FORGET, Act.NOTE))


@pytest.mark.parametrize("answer", NOT_GOOD)
def test_a_guest_does_not_go_on_without_a_good_commit(answer: Answer) -> None:
    record, _ = step(at(Phase.PREPARED), Acquires(), STRICT)
    record, found = step(record, AgentSaid(MoveCall.COMMIT, answer, "why"), STRICT)
    assert found == (Permission(False, "why"),)
    assert outputs(record, Waits()) == ()


@pytest.mark.parametrize(
    "phase", [phase for phase in Phase if phase not in (Phase.HOME, Phase.RECLAIMING)]
)
def test_the_plugin_lets_nobody_go_on_at_once_while_a_move_is_unfinished(phase: Phase) -> None:
    assert True not in replies(outputs(at(phase), Acquires()))


def test_a_guest_of_no_move_goes_on_at_once() -> None:
    assert outputs(GuestRecord(), Acquires()) == (Permission(True),)


def test_a_guest_whose_migration_failed_in_the_pause_asks() -> None:
    record, found = step(GuestRecord(), Acquires(outgoing=True), STRICT)
    assert found == (Ask(MoveCall.RECLAIM),)
    record, found = step(record, AgentSaid(MoveCall.RECLAIM, Answer.DOUBT, "why"), STRICT)
    assert found == (Permission(False, "why"),)
    assert outputs(record, Acquires(outgoing=True)) == (Ask(MoveCall.RECLAIM),)


def test_the_reservation_follows_a_guest_that_goes_on() -> None:
    record, found = step(at(Phase.PREPARED), Runs(), STRICT)
    assert found == (Ask(MoveCall.LATE_COMMIT),)
    assert step(record, AgentSaid(MoveCall.LATE_COMMIT, Answer.GOOD), STRICT) == (
        GuestRecord(),
        (Act.FORGET, Act.NOTE),
    )


@pytest.mark.parametrize("answer", [Answer.DOUBT, Answer.SPENT])
def test_a_guest_that_nothing_proves_allowed_is_paused(answer: Answer) -> None:
    record, _ = step(at(Phase.PREPARED), Runs(), STRICT)
    record, found = step(record, AgentSaid(MoveCall.LATE_COMMIT, answer), STRICT)
    assert (record.phase, found) == (Phase.HELD, (Act.PAUSE,))


def test_a_suspended_guest_is_committed_before_somebody_resumes_it() -> None:
    record, found = step(at(Phase.PREPARED, suspended=True), Waits(), STRICT)
    assert found == (Ask(MoveCall.COMMIT),)
    record, _ = step(record, AgentSaid(MoveCall.COMMIT, Answer.GOOD), STRICT)
    assert record.phase is Phase.COMMITTED


def test_a_suspended_guest_that_is_resumed_early_waits_for_its_commit() -> None:
    record, found = step(at(Phase.PREPARED, suspended=True), Runs(), STRICT)
    assert found == (Act.PAUSE, Ask(MoveCall.COMMIT))
    record, found = step(record, AgentSaid(MoveCall.COMMIT, Answer.GOOD), STRICT)
    assert found == (Act.FORGET, Act.NOTE, Act.RESUME)
    assert record == GuestRecord()


@pytest.mark.parametrize(("migrated", "phase"), [(False, Phase.HOME), (True, Phase.LEFT)])
def test_the_source_gives_up_only_what_left_by_migration(migrated: bool, phase: Phase) -> None:
    record, found = step(GuestRecord(), Ended(migrated), STRICT)
    assert record.phase is phase
    assert found == ((Ask(MoveCall.FINISH),) if migrated else ())


@pytest.mark.parametrize("answer", [Answer.LATER, Answer.DOUBT, Answer.SILENT, Answer.REFUSED])
def test_a_source_that_could_not_give_up_tries_again(answer: Answer) -> None:
    record, _ = step(GuestRecord(), Ended(migrated=True), STRICT)
    record, _ = step(record, AgentSaid(MoveCall.FINISH, answer), STRICT)
    assert outputs(record, Ended()) == (Ask(MoveCall.FINISH),)


def to_the_end(phase: Phase, answer: Answer, *given: Input) -> tuple[GuestRecord, list[Output]]:
    """What comes of inputs, while the agent gives every call the same answer.

    As for the service, a guest without a file did not leave with one.
    """
    record, said = at(phase), []
    for each in given:
        fileless = Act.FORGET in said and isinstance(each, Ended)
        record, found = step(record, Ended() if fileless else each, STRICT)
        said += found
        while record.asked is not None:
            record, found = step(record, AgentSaid(record.asked, answer), STRICT)
            said += found
    return record, said


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("answer", list(Answer))
def test_an_end_without_a_reason_takes_nothing_from_the_one_with_it(
    phase: Phase, answer: Answer
) -> None:
    """Hook `stopped` has no reason in any version, `release` only from 10.5.0 on; what says that
    the guest left comes after them."""
    at_once, _ = to_the_end(phase, answer, Ended(migrated=True))
    record, said = to_the_end(phase, answer, Ended(), Ended(), Ended(migrated=True))
    assert record == at_once
    finishes = phase in (Phase.HOME, Phase.LEFT, Phase.RECLAIMING)
    assert (Ask(MoveCall.FINISH) in said) is finishes
    if finishes:
        assert (record.phase is Phase.HOME) is (answer is Answer.GOOD)


@pytest.mark.parametrize("phase", [Phase.HELD, Phase.ARRIVED])
def test_nothing_is_taken_over_for_a_guest_that_is_not_here(phase: Phase) -> None:
    assert step(at(phase), Ended(), STRICT) == (at(phase), ())
    assert outputs(at(phase), Ended(migrated=True)) == (Ask(MoveCall.WITHDRAW),)


def test_a_rollback_keeps_the_file_that_the_guest_may_take_along() -> None:
    record, found = to_the_end(Phase.RECLAIMING, Answer.GOOD, Acquires(outgoing=True))
    assert (record, Act.FORGET in found) == (GuestRecord(), False)


def test_a_finish_that_comes_late_for_the_agent_begins_anew() -> None:
    record, found = to_the_end(Phase.HOME, Answer.SPENT, Ended(migrated=True))
    assert (record.phase, found) == (Phase.LEFT, [Ask(MoveCall.FINISH), Act.RENEW])
    assert outputs(record, Ended()) == (Ask(MoveCall.FINISH),)


def test_a_guest_comes_back_where_its_migration_failed_here_only() -> None:
    record, found = to_the_end(Phase.RECLAIMING, Answer.GOOD, COMES)
    assert found[0] == Ask(MoveCall.FINISH)
    assert (record.phase, replies(tuple(found))) == (Phase.PREPARED, [True])
    record, found = to_the_end(Phase.RECLAIMING, Answer.LATER, COMES)
    assert (record.phase, replies(tuple(found))) == (Phase.LEFT, [False])


def test_an_ordinary_start_is_let_happen() -> None:
    assert outputs(GuestRecord(), Started(Given.FILE, incoming=False)) == (Permission(True),)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_call_that_is_under_way_is_waited_for(phase: Phase) -> None:
    busy = replace(at(phase), asked=MoveCall.FINISH)
    with pytest.raises(ValueError, match="under way"):
        step(busy, Waits(), STRICT)
