"""Where targets differ from each other, as data: one Profile per kind of target.

The state machine asks the profile and never the target's name.  None in a field means that
it is not known what the target does; the machine then applies nothing and puts what the
command may have changed in doubt.  GENERIC is None wherever two targets that could be
examined differ, for an unknown target may be either of them, and careful in the few fields that
have no None.

An unknown target may be one of the known ones under another name.  LIO's vendor name is an
attribute (configfs wwn/vendor_id), makers of storage ship it under their own names, and what else
would tell it is no proof: the NAA designator 6001405... of VPD page 83h has a company identifier
that is an attribute, too (wwn/company_id), the T10 designator there repeats the vendor name, and
who ships a changed LIO may have changed what a profile says.  SPDK's vendor name is compiled in
(DEFAULT_DISK_VENDOR).  So nothing but the name makes a target a known one.

Sources: Linux drivers/target/target_core_pr.c and target_core_ua.c (LIO), SCST
scst/src/scst_pres.c, SPDK lib/scsi/scsi_pr.c; for 3PAR a report on the Linux kernel mailing
list of April 2026 (a PREEMPT of one's own key without a reservation keeps the sender).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Profile(NamedTuple):
    """What one kind of target does where targets differ; None: it is not known."""

    name: str
    unregister_adds: int | None
    """What PRGENERATION gains by an unregistration."""
    idle_register_adds: int | None
    """What it gains by a REGISTER with key 0 on a nexus that is not registered."""
    counts_removed: bool | None
    """CLEAR and PREEMPT add one for every registration they remove instead of one in all."""
    counts_specified: bool | None
    """A REGISTER with SPEC_I_PT adds one for each nexus that it registers, not one in all."""
    specifies_here: bool | None
    """SPEC_I_PT registers the initiator ports on the target port that the command went to.

    LIO takes the first target port of the unit at which the initiator is known
    (drivers/target/target_core_pr.c, core_scsi3_decode_spec_i_port)."""
    unregister_takes_aptpl: bool | None
    """An unregistration replaces the APTPL setting by its bit, as a registration does."""
    move_rekeys: bool | None
    """REGISTER AND MOVE to a nexus that is registered gives it the new key."""
    own_key_unreserved: bool | None
    """A PREEMPT of the sender's own key removes the sender too while nothing is reserved."""
    own_key_reserved: bool | None
    """The same while another key holds the reservation."""
    own_key_shared: bool | None
    """The same under an all-registrants reservation."""
    self_preempt_clears: bool | None
    """A holder's PREEMPT of its own key removes the other registrations with that key."""
    unmatched_conflicts: bool | None
    """A PREEMPT of a key that nobody has is refused."""
    zero_is_refused: bool | None
    """A PREEMPT of key 0 is refused unless all registrants hold."""
    designates: bool | None
    """One registrant is the holder of an all-registrants reservation, and a PREEMPT of its key
    replaces the reservation as if the type were another."""
    release_shared: bool | None
    """A RELEASE of an all-registrants reservation releases it."""
    release_checks_key: bool | None
    """A RELEASE by a registrant that does not hold is refused when its key is wrong."""
    holder_key_follows: bool | None
    """READ RESERVATION shows the holder's new key after the holder registered another one."""
    raises_attentions: bool
    """The target establishes the standard's unit attentions."""
    attention_clears_all: bool
    """Delivering one unit attention drops the others that wait for the same nexus."""
    attentions_shared: bool
    """A unit attention may be raised for an initiator port's name, whatever the ISID, and
    delivered on one of its sessions."""
    forgets_at_logout: bool | None
    """The end of an initiator's last session may end its registrations, the reservation with them;
    PRGENERATION stays, and no unit attention tells.

    SPC keeps them.  LIO frees those of a node ACL with the ACL: with one that it made at the
    log-in, where cache_dynamic_acls is 0, and with one that somebody deletes
    (drivers/target/target_core_transport.c, transport_free_session and target_complete_nacl;
    target_core_device.c, core_disable_device_list_for_node)."""
    lists_every_port: bool | None
    """READ FULL STATUS has one descriptor per target port of an ALL_TG_PT registration, not one in
    all."""
    mixes_sessions: bool | None = False
    """Whom a reservation lets in is asked of an initiator's name, and of its ISID in part only."""
    turns_full_status: bool | None = False
    """READ FULL STATUS gives keys and relative target ports in the processor's byte order."""


GENERIC = Profile(
    name="unknown",
    unregister_adds=None,
    idle_register_adds=None,
    counts_removed=None,
    counts_specified=None,
    specifies_here=None,
    unregister_takes_aptpl=None,
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
    # A target that raises none raises none for a stranger's commands either.
    raises_attentions=True,
    # Forgetting an expected unit attention costs at worst one reading; keeping one that will
    # never come hides a stranger's.
    attention_clears_all=True,
    attentions_shared=True,
    forgets_at_logout=None,
    lists_every_port=None,
    mixes_sessions=None,
    turns_full_status=None,
)

LIO = Profile(
    name="LIO",
    unregister_adds=0,
    idle_register_adds=0,
    counts_removed=False,
    counts_specified=True,
    specifies_here=False,
    unregister_takes_aptpl=True,
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
    forgets_at_logout=True,
    lists_every_port=True,
    mixes_sessions=True,
)

SCST = Profile(
    name="SCST",
    unregister_adds=1,
    idle_register_adds=1,
    counts_removed=False,
    counts_specified=None,
    specifies_here=True,
    unregister_takes_aptpl=None,
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
    forgets_at_logout=False,
    lists_every_port=True,
)

SPDK = GENERIC._replace(name="SPDK", raises_attentions=False)
"""SPDK names itself INTEL 0001, which other products may do as well.

So only what is harmless when wrong is taken from its source: it raises no unit attentions.
Everything else stays unknown, the byte order of its READ FULL STATUS, which it turns, as well.
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
