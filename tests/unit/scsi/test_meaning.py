"""The words for people, held against the rules that decide."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.model import Access, Action, Attention, ReservationType
from prtrace.scsi.codes import InAction
from prtrace.scsi.meaning import asked_in, asked_out, lets_in, raised_by
from prtrace.scsi.parameter import BasicList, MoveList
from prtrace.scsi.transportid import SasPort
from prtrace.state.access import Standing, ruling

WERO = ReservationType.WERO
A, B = "0x000000000000000a", "0x000000000000000b"


def let_in(words, standing, access):
    """Whether the words let a nexus read or write."""
    for clause in words.split(", "):
        who, _, what = clause.partition(" may ")
        if access.value in what.split():
            break
    else:
        pytest.fail(f"{words} does not say who may {access.value}")
    match who:
        case "everybody":
            return True
        case "only the holder":
            return standing is Standing.HOLDER
        case "only registered nexuses":
            return standing is not Standing.NOT_REGISTERED
        case _:
            pytest.fail(f"who is {who!r}?")


@pytest.mark.parametrize(
    ("kind", "standing", "access"),
    list(
        itertools.product(
            ReservationType,
            (Standing.HOLDER, Standing.REGISTERED, Standing.NOT_REGISTERED),
            (Access.READ, Access.WRITE),
        )
    ),
)
def test_the_words_on_a_type_are_the_rule(kind, standing, access):
    assert let_in(lets_in(kind), standing, access) is ruling(kind, standing, access).allowed


@pytest.mark.parametrize("kind", ReservationType)
def test_only_all_registrants_types_have_many_holders(kind):
    assert ("each of them is a holder" in lets_in(kind)) is kind.all_registrants


@pytest.mark.parametrize(
    ("action", "key", "sa_key", "words"),
    [
        (Action.REGISTER, 0, 0xB, f"is not registered yet, with key {B}"),
        (Action.REGISTER, 0xA, 0xB, f"changes the key of the sender's I_T nexus from {A} to {B}"),
        (Action.REGISTER, 0xA, 0xA, "which it has already"),
        (Action.REGISTER, 0xA, 0, f"removes the registration .* has key {A}"),
        (Action.REGISTER, 0, 0, "changes nothing"),
        (Action.REGISTER_AND_IGNORE, 0xA, 0xB, f"with key {B}, whatever key it had"),
        (Action.REGISTER_AND_IGNORE, 0xA, 0, "removes the registration .* whatever its key"),
        (Action.PREEMPT, 0xA, 0xB, f"takes the registrations with key {B} away .* as WERO: every"),
        (Action.PREEMPT, 0xA, 0xA, "the sender's own key, too"),
        (Action.PREEMPT, 0xA, 0, "all other nexuses away under an all-registrants type"),
        (Action.PREEMPT_AND_ABORT, 0xA, 0xB, "are aborted"),
        (Action.RESERVE, 0xA, 0, "reserves the logical unit for the sender: everybody may read"),
        (Action.RELEASE, 0xA, 0, "if the sender holds it"),
        (Action.CLEAR, 0xA, 0, "those of others and the sender's own"),
    ],
)
def test_a_parameter_list_makes_it_concrete(action, key, sa_key, words):
    said = asked_out(action, WERO, BasicList(key, sa_key))
    assert re.search(words, said), said


def test_flags():
    said = asked_out(
        Action.REGISTER, None, BasicList(0, 1, spec_i_pt=True, all_tg_pt=True, aptpl=True)
    )
    assert all(name in said for name in ("SPEC_I_PT", "ALL_TG_PT", "APTPL"))
    moved = MoveList(1, 2, 3, SasPort(0x5001405AABBCCDDE), unreg=True)
    said = asked_out(Action.REGISTER_AND_MOVE, None, moved)
    assert "naa.5001405aabbccdde on target port 3" in said
    assert "the sender's registration is removed" in said


@pytest.mark.parametrize("attention", Attention)
def test_a_unit_attention_is_never_for_who_raised_it(attention):
    about_reservations = attention.value[0] == 0x2A
    assert ("never for the sender" in raised_by(attention)) is about_reservations


@given(
    st.sampled_from(Action),
    st.sampled_from([None, *ReservationType]),
    st.sampled_from([None, BasicList(0, 0), BasicList(1, 2), MoveList(1, 2, 3, None)]),
)
def test_every_command_has_words(action, kind, listed):
    said = asked_out(action, kind, listed)
    assert said.isascii()
    assert said.isprintable()
    assert said[0].islower()


@pytest.mark.parametrize("action", InAction)
def test_every_reading_has_words(action):
    assert asked_in(action).startswith("asks ")
