"""Where targets differ from each other, as data: one Profile per kind of target.

The state machine asks the profile and never the target's name.  None in a field means that
it is not known what the target does; the machine then applies nothing and puts what the
command may have changed in doubt.  GENERIC is None wherever two targets that could be
examined differ, for an unknown target may be either of them.

Sources: Linux drivers/target/target_core_pr.c and target_core_ua.c (LIO), SCST
scst/src/scst_pres.c, SPDK lib/scsi/scsi_pr.c; for 3PAR a report on the Linux kernel mailing
list of April 2026 (a PREEMPT of one's own key without a reservation keeps the sender).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Profile(NamedTuple):
    """What one kind of target does where targets differ.

    unregister_adds, idle_register_adds: what PRGENERATION gains by an unregistration, and by
    a REGISTER with key 0 on a nexus that is not registered.  counts_removed: CLEAR and
    PREEMPT add one for every registration they remove instead of one in all.
    counts_specified: a REGISTER with SPEC_I_PT adds one for every nexus that it registers instead
    of one in all.  specifies_here: it registers them on the target port that the command went to;
    LIO takes the first target port of the unit at which the initiator is known
    (drivers/target/target_core_pr.c, core_scsi3_decode_spec_i_port).  move_rekeys: REGISTER AND MOVE to a nexus that is registered gives it the new
    key.
    own_key_unreserved, own_key_reserved, own_key_shared: whether a PREEMPT of the sender's
    own key removes the sender too while nothing is reserved; while another key holds the
    reservation; under an all-registrants reservation.
    self_preempt_clears: a holder's PREEMPT of its own key removes the other registrations
    with that key.  unmatched_conflicts: a PREEMPT of a key that nobody has is refused.
    zero_is_refused: a PREEMPT of key 0 is refused unless all registrants hold.
    designates: one registrant is the holder of an all-registrants reservation, and a PREEMPT
    of its key replaces the reservation as if the type were another.
    release_shared: a RELEASE of an all-registrants reservation releases it.
    release_checks_key: a RELEASE by a registrant that does not hold is refused when its key
    is wrong.  holder_key_follows: READ RESERVATION shows the holder's new key after the
    holder registered another one.  raises_attentions: the target establishes the standard's
    unit attentions.  attention_clears_all: delivering one unit attention drops the others
    that wait for the same nexus.  attentions_shared: a unit attention is raised for an
    initiator port's name, whatever the ISID, and delivered on one of its sessions.
    lists_every_port: READ FULL STATUS has one descriptor per target port of an ALL_TG_PT
    registration, not one in all.  turns_full_status: READ FULL STATUS may give numbers in
    the wrong byte order.
    """

    name: str
    unregister_adds: int | None
    idle_register_adds: int | None
    counts_removed: bool | None
    counts_specified: bool | None
    specifies_here: bool | None
    move_rekeys: bool | None
    own_key_unreserved: bool | None
    own_key_reserved: bool | None
    own_key_shared: bool | None
    self_preempt_clears: bool | None
    unmatched_conflicts: bool | None
    zero_is_refused: bool | None
    designates: bool | None
    release_shared: bool | None
    release_checks_key: bool | None
    holder_key_follows: bool | None
    raises_attentions: bool
    attention_clears_all: bool
    attentions_shared: bool
    lists_every_port: bool
    turns_full_status: bool = False


GENERIC = Profile(
    name="unknown",
    unregister_adds=None,
    idle_register_adds=None,
    counts_removed=None,
    counts_specified=None,
    specifies_here=None,
    move_rekeys=None,
    own_key_unreserved=None,
    own_key_reserved=None,
    own_key_shared=None,
    self_preempt_clears=None,
    unmatched_conflicts=None,
    zero_is_refused=None,
    designates=None,
    release_shared=None,
    release_checks_key=None,
    holder_key_follows=None,
    raises_attentions=True,
    # Forgetting an expected unit attention costs at worst one reading; keeping one that will
    # never come hides a stranger's.
    attention_clears_all=True,
    attentions_shared=False,
    # SPC-4 6.15.5 has one descriptor for all the ports.
    lists_every_port=False,
)

LIO = Profile(
    name="LIO",
    unregister_adds=0,
    idle_register_adds=0,
    counts_removed=False,
    counts_specified=True,
    specifies_here=False,
    move_rekeys=None,
    own_key_unreserved=True,
    own_key_reserved=True,
    own_key_shared=False,
    self_preempt_clears=True,
    unmatched_conflicts=True,
    zero_is_refused=True,
    designates=True,
    release_shared=True,
    release_checks_key=False,
    holder_key_follows=True,
    raises_attentions=True,
    attention_clears_all=True,
    attentions_shared=True,
    lists_every_port=True,
)

SCST = Profile(
    name="SCST",
    unregister_adds=1,
    idle_register_adds=1,
    counts_removed=False,
    counts_specified=None,
    specifies_here=True,
    move_rekeys=None,
    own_key_unreserved=False,
    own_key_reserved=True,
    own_key_shared=False,
    self_preempt_clears=True,
    unmatched_conflicts=True,
    zero_is_refused=True,
    designates=False,
    release_shared=True,
    release_checks_key=True,
    holder_key_follows=True,
    raises_attentions=True,
    attention_clears_all=False,
    attentions_shared=False,
    lists_every_port=True,
)

SPDK = GENERIC._replace(name="SPDK", raises_attentions=False, turns_full_status=True)
"""SPDK names itself INTEL 0001, which other products may do as well.

So only what is harmless when wrong is taken from its source: it raises no unit attentions, and
its READ FULL STATUS is turned round where only that agrees with READ KEYS.  Everything else
stays unknown.
"""


class _Identity(NamedTuple):
    vendor: str
    product: str
    revision: str
    profile: Profile


_KNOWN = (
    _Identity("LIO-ORG", "", "", LIO),
    _Identity("SCST_", "", "", SCST),
    _Identity("INTEL", "", "0001", SPDK),
)
"""Prefixes of the INQUIRY fields; the first match counts."""


@lru_cache(256)
def profile_of(target: str) -> Profile:
    """Return the profile of "VENDOR/PRODUCT/REVISION" (INQUIRY fields, blanks stripped or not).

    A LIO back end that passes commands through to a real disk shows that disk's own names,
    and rightly: there the disk keeps the reservations.
    """
    vendor, _, rest = target.partition("/")
    product, _, revision = rest.rpartition("/")
    for known in _KNOWN:
        if (
            vendor.strip().startswith(known.vendor)
            and product.strip().startswith(known.product)
            and revision.strip().startswith(known.revision)
        ):
            return known.profile
    return GENERIC
