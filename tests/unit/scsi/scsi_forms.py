"""Hypothesis strategies for every form of prtrace.scsi, and the checks they share."""

from hypothesis import strategies as st

from prtrace.errors import MalformedError
from prtrace.model import ReservationType
from prtrace.scsi.codes import ReservedCode
from prtrace.scsi.designator import Association, Designator, IdentificationPage, Kind
from prtrace.scsi.parameter import BasicList, MoveList
from prtrace.scsi.reply import (
    FullStatusDescriptor,
    ReadFullStatus,
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
    ReservationDescriptor,
)
from prtrace.scsi.sense import Sense
from prtrace.scsi.transportid import (
    FcPort,
    IscsiPort,
    SasPort,
    SopPort,
    SpiPort,
    SrpPort,
    UnknownPort,
)


def made(form, *given, **named):
    """What form makes of the drawn values, and of its own defaults for the rest.

    st.builds(form) would draw the rest of a NamedTuple's fields, too.
    """

    def make(*args, **kwargs):
        return form(*args, **kwargs)

    return st.builds(make, *given, **named)


def bits(count):
    return st.integers(0, (1 << count) - 1)


flag = st.booleans()
reserved_types = st.sampled_from([2, 4, 9, 10, 11, 12, 13, 14, 15]).map(
    lambda code: ReservedCode("TYPE", code)
)
types = st.sampled_from(ReservationType) | reserved_types

iscsi_names = st.binary(min_size=1, max_size=223).filter(lambda name: 0 not in name)
unknown_ports = st.tuples(
    st.sampled_from([2, 3, 7, 8, 9, 11, 15]), bits(2), st.binary(min_size=23, max_size=23)
).map(lambda t: UnknownPort(bytes([t[0] | t[1] << 6]) + t[2]))
transport_ids = st.one_of(
    made(FcPort, bits(64)),
    made(SpiPort, bits(16), bits(16)),
    made(SrpPort, bits(128)),
    made(IscsiPort, iscsi_names, st.none() | bits(48)),
    made(SasPort, bits(64)),
    made(SopPort, bits(16)),
    unknown_ports,
)

basic_lists = made(
    BasicList,
    bits(64),
    bits(64),
    st.just(False),
    flag,
    flag,
    obsolete_address=bits(32),
    obsolete_extent=bits(16),
) | made(
    BasicList,
    bits(64),
    bits(64),
    st.just(True),
    flag,
    flag,
    transport_ids=st.lists(transport_ids, max_size=4).map(tuple),
)
move_lists = made(MoveList, bits(64), bits(64), bits(16), transport_ids, flag, flag)

read_keys = st.builds(
    lambda generation, keys: ReadKeys.of(generation, *keys),
    bits(32),
    st.lists(bits(64), max_size=20),
)
read_reservations = made(
    ReadReservation,
    bits(32),
    st.none() | made(ReservationDescriptor, bits(64), types, bits(4)),
)
capabilities = made(
    ReportCapabilities,
    rlr_c=flag,
    crh=flag,
    sip_c=flag,
    atp_c=flag,
    ptpl_c=flag,
    tmv=flag,
    allow_commands=bits(3),
    ptpl_a=flag,
    types=st.frozensets(st.sampled_from(ReservationType)),
)
descriptors = made(FullStatusDescriptor, bits(64), bits(16), transport_ids, all_tg_pt=flag) | made(
    FullStatusDescriptor,
    bits(64),
    bits(16),
    transport_ids,
    holder=st.just(True),
    all_tg_pt=flag,
    type=types,
    scope=bits(4),
)
full_statuses = st.builds(
    lambda generation, each: ReadFullStatus.of(generation, *each),
    bits(32),
    st.lists(descriptors, max_size=6),
)
senses = made(Sense, st.sampled_from([0x70, 0x71, 0x72, 0x73]), bits(4), bits(8), bits(8))
pages = st.builds(
    lambda each: IdentificationPage(tuple(each)),
    st.lists(
        made(
            Designator,
            st.sampled_from(Association),
            st.sampled_from(Kind),
            bits(4),
            st.binary(max_size=40),
            bits(4),
        ),
        max_size=6,
    ),
)


def parses_or_refuses(parse, raw):
    """The value, None for a MalformedError; any other exception fails the test."""
    try:
        return parse(raw)
    except MalformedError:
        return None
