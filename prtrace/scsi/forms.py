"""Every SCSI form of fixed size that prtrace reads or builds, declared once.

Fields have the names and the order of the standard.  Beside a form stand the masks of those of
its fields that are shorter than a byte, taken from the declaration.  Fields of bits that belong
to one byte are named after what they hold, or after the byte's number where they have nothing
in common.

Sources: SPC-4 (T10/1731-D) for all but RESERVE and RELEASE, which are SPC-2 (T10/1236-D).
"""

from __future__ import annotations

from typing import Final

import construct as cs

from prtrace.model import ReservationType
from prtrace.scsi.codes import Opcode
from prtrace.scsi.form import Form

# ---- Command descriptor blocks --------------------------------------------------------------

TEST_UNIT_READY_CDB: Final = Form(
    "TEST UNIT READY CDB",
    "operation_code" / cs.Int8ub,
    cs.Padding(4),
    "control" / cs.Int8ub,
)

REQUEST_SENSE_CDB: Final = Form(
    "REQUEST SENSE CDB",
    "operation_code" / cs.Int8ub,
    "flags" / cs.BitStruct(cs.Padding(7), "desc" / cs.Flag),
    cs.Padding(2),
    "allocation_length" / cs.Int8ub,
    "control" / cs.Int8ub,
)

INQUIRY_CDB: Final = Form(
    "INQUIRY CDB",
    "operation_code" / cs.Int8ub,
    "flags" / cs.BitStruct(cs.Padding(7), "evpd" / cs.Flag),
    "page_code" / cs.Int8ub,
    "allocation_length" / cs.Int16ub,
    "control" / cs.Int8ub,
)

EVPD: Final = INQUIRY_CDB.mask("evpd")

PR_IN_CDB: Final = Form(  # SPC-4 6.15
    "PERSISTENT RESERVE IN CDB",
    "operation_code" / cs.Int8ub,
    "byte_1" / cs.BitStruct(cs.Padding(3), "service_action" / cs.BitsInteger(5)),
    cs.Padding(5),
    "allocation_length" / cs.Int16ub,
    "control" / cs.Int8ub,
)

PR_OUT_CDB: Final = Form(  # SPC-4 6.16
    "PERSISTENT RESERVE OUT CDB",
    "operation_code" / cs.Int8ub,
    "byte_1" / cs.BitStruct(cs.Padding(3), "service_action" / cs.BitsInteger(5)),
    "scope_type" / cs.BitStruct("scope" / cs.Nibble, "type" / cs.Nibble),
    cs.Padding(2),
    "parameter_list_length" / cs.Int32ub,
    "control" / cs.Int8ub,
)

SERVICE_ACTION: Final = PR_OUT_CDB.mask("service_action")
"""Of byte 1, in PERSISTENT RESERVE IN and OUT alike."""
TYPE: Final = PR_OUT_CDB.mask("type")
"""Of a byte that holds SCOPE and TYPE: in the CDB and in the replies alike."""
SCOPE: Final = PR_OUT_CDB.mask("scope")
SCOPE_SHIFT: Final = PR_OUT_CDB.shift("scope")

RESERVE_RELEASE_6_CDB: Final = Form(
    "RESERVE/RELEASE(6) CDB",
    "operation_code" / cs.Int8ub,
    "flags"
    / cs.BitStruct(
        cs.Padding(3),
        "3rdpty" / cs.Flag,
        "third_party_device_id" / cs.BitsInteger(3),
        "extent" / cs.Flag,
    ),
    "reservation_identification" / cs.Int8ub,
    "parameter_list_length" / cs.Int16ub,
    "control" / cs.Int8ub,
)

RESERVE_RELEASE_10_CDB: Final = Form(
    "RESERVE/RELEASE(10) CDB",
    "operation_code" / cs.Int8ub,
    "flags"
    / cs.BitStruct(
        cs.Padding(3),
        "3rdpty" / cs.Flag,
        cs.Padding(2),
        "longid" / cs.Flag,
        "extent" / cs.Flag,
    ),
    "reservation_identification" / cs.Int8ub,
    "third_party_device_id" / cs.Int8ub,
    cs.Padding(3),
    "parameter_list_length" / cs.Int16ub,
    "control" / cs.Int8ub,
)

THIRD_PARTY: Final = RESERVE_RELEASE_10_CDB.mask("3rdpty")
"""Of the flags of RESERVE and RELEASE, 6 and 10 bytes alike."""
EXTENT: Final = RESERVE_RELEASE_10_CDB.mask("extent")
LONG_ID: Final = RESERVE_RELEASE_10_CDB.mask("longid")
THIRD_PARTY_DEVICE_ID_6: Final = RESERVE_RELEASE_6_CDB.mask("third_party_device_id")
THIRD_PARTY_DEVICE_ID_6_SHIFT: Final = RESERVE_RELEASE_6_CDB.shift("third_party_device_id")

CDBS: Final = {
    Opcode.TEST_UNIT_READY: TEST_UNIT_READY_CDB,
    Opcode.REQUEST_SENSE: REQUEST_SENSE_CDB,
    Opcode.INQUIRY: INQUIRY_CDB,
    Opcode.RESERVE_6: RESERVE_RELEASE_6_CDB,
    Opcode.RELEASE_6: RESERVE_RELEASE_6_CDB,
    Opcode.RESERVE_10: RESERVE_RELEASE_10_CDB,
    Opcode.RELEASE_10: RESERVE_RELEASE_10_CDB,
    Opcode.PR_IN: PR_IN_CDB,
    Opcode.PR_OUT: PR_OUT_CDB,
}
"""The CDB's form by operation code."""

# ---- PERSISTENT RESERVE OUT parameter lists -------------------------------------------------

BASIC_PARAMETER_LIST: Final = Form(  # SPC-4 6.16.3
    "PERSISTENT RESERVE OUT parameter list",
    "reservation_key" / cs.Int64ub,
    "service_action_reservation_key" / cs.Int64ub,
    "obsolete_scope_specific_address" / cs.Int32ub,
    "flags"
    / cs.BitStruct(
        cs.Padding(4),
        "spec_i_pt" / cs.Flag,
        "all_tg_pt" / cs.Flag,
        cs.Padding(1),
        "aptpl" / cs.Flag,
    ),
    cs.Padding(1),
    "obsolete_extent_length" / cs.Int16ub,
)

SPEC_I_PT: Final = BASIC_PARAMETER_LIST.mask("spec_i_pt")
ALL_TG_PT: Final = BASIC_PARAMETER_LIST.mask("all_tg_pt")
APTPL: Final = BASIC_PARAMETER_LIST.mask("aptpl")

SPEC_I_PT_LIST: Final = Form(  # SPC-4 6.16.3: behind the basic list; TransportIDs follow
    "SPEC_I_PT list",
    "transportid_parameter_data_length" / cs.Int32ub,
)

REGISTER_AND_MOVE_LIST: Final = Form(  # SPC-4 6.16.4; one TransportID follows
    "REGISTER AND MOVE parameter list",
    "reservation_key" / cs.Int64ub,
    "service_action_reservation_key" / cs.Int64ub,
    cs.Padding(1),
    "flags" / cs.BitStruct(cs.Padding(6), "unreg" / cs.Flag, "aptpl" / cs.Flag),
    "relative_target_port_identifier" / cs.Int16ub,
    "transportid_length" / cs.Int32ub,
)

MOVE_UNREG: Final = REGISTER_AND_MOVE_LIST.mask("unreg")
MOVE_APTPL: Final = REGISTER_AND_MOVE_LIST.mask("aptpl")

# ---- PERSISTENT RESERVE IN parameter data ---------------------------------------------------

_HEADER = ("prgeneration" / cs.Int32ub, "additional_length" / cs.Int32ub)

READ_KEYS: Final = Form("READ KEYS reply", *_HEADER)  # SPC-4 6.15.2; 8-byte keys follow

READ_RESERVATION: Final = Form("READ RESERVATION reply", *_HEADER)  # SPC-4 6.15.3

RESERVATION: Final = Form(  # SPC-4 6.15.3: behind the header where something is reserved
    "READ RESERVATION reply",
    "reservation_key" / cs.Int64ub,
    "obsolete_scope_specific_address" / cs.Int32ub,
    cs.Padding(1),
    "scope_type" / cs.BitStruct("scope" / cs.Nibble, "type" / cs.Nibble),
    "obsolete_extent_length" / cs.Int16ub,
)

REPORT_CAPABILITIES: Final = Form(  # SPC-4 6.15.4
    "REPORT CAPABILITIES reply",
    "length" / cs.Int16ub,
    "capabilities"
    / cs.BitStruct(
        "rlr_c" / cs.Flag,
        cs.Padding(2),
        "crh" / cs.Flag,
        "sip_c" / cs.Flag,
        "atp_c" / cs.Flag,
        cs.Padding(1),
        "ptpl_c" / cs.Flag,
    ),
    "byte_3"
    / cs.BitStruct(
        "tmv" / cs.Flag,
        "allow_commands" / cs.BitsInteger(3),
        cs.Padding(3),
        "ptpl_a" / cs.Flag,
    ),
    "persistent_reservation_type_mask"
    / cs.BitStruct(
        "wr_ex_ar" / cs.Flag,
        "ex_ac_ro" / cs.Flag,
        "wr_ex_ro" / cs.Flag,
        cs.Padding(1),
        "ex_ac" / cs.Flag,
        cs.Padding(1),
        "wr_ex" / cs.Flag,
        cs.Padding(8),
        "ex_ac_ar" / cs.Flag,
    ),
    cs.Padding(2),
)

RLR_C: Final = REPORT_CAPABILITIES.mask("rlr_c")
CRH: Final = REPORT_CAPABILITIES.mask("crh")
SIP_C: Final = REPORT_CAPABILITIES.mask("sip_c")
ATP_C: Final = REPORT_CAPABILITIES.mask("atp_c")
PTPL_C: Final = REPORT_CAPABILITIES.mask("ptpl_c")
TMV: Final = REPORT_CAPABILITIES.mask("tmv")
ALLOW_COMMANDS: Final = REPORT_CAPABILITIES.mask("allow_commands")
ALLOW_COMMANDS_SHIFT: Final = REPORT_CAPABILITIES.shift("allow_commands")
PTPL_A: Final = REPORT_CAPABILITIES.mask("ptpl_a")

TYPE_MASKS: Final = {
    ReservationType.WE: REPORT_CAPABILITIES.mask("wr_ex"),
    ReservationType.EA: REPORT_CAPABILITIES.mask("ex_ac"),
    ReservationType.WERO: REPORT_CAPABILITIES.mask("wr_ex_ro"),
    ReservationType.EARO: REPORT_CAPABILITIES.mask("ex_ac_ro"),
    ReservationType.WEAR: REPORT_CAPABILITIES.mask("wr_ex_ar"),
    ReservationType.EAAR: REPORT_CAPABILITIES.mask("ex_ac_ar"),
}
"""Of PERSISTENT RESERVATION TYPE MASK."""

READ_FULL_STATUS: Final = Form("READ FULL STATUS reply", *_HEADER)  # SPC-4 6.15.5

FULL_STATUS_DESCRIPTOR: Final = Form(  # SPC-4 6.15.5; a TransportID follows
    "READ FULL STATUS descriptor",
    "reservation_key" / cs.Int64ub,
    cs.Padding(4),
    "flags" / cs.BitStruct(cs.Padding(6), "all_tg_pt" / cs.Flag, "r_holder" / cs.Flag),
    "scope_type" / cs.BitStruct("scope" / cs.Nibble, "type" / cs.Nibble),
    cs.Padding(4),
    "relative_target_port_identifier" / cs.Int16ub,
    "additional_descriptor_length" / cs.Int32ub,
)

STATUS_ALL_TG_PT: Final = FULL_STATUS_DESCRIPTOR.mask("all_tg_pt")
STATUS_R_HOLDER: Final = FULL_STATUS_DESCRIPTOR.mask("r_holder")

# ---- TransportIDs ---------------------------------------------------------------------------

_PROTOCOL = "byte_0" / cs.BitStruct(
    "format_code" / cs.BitsInteger(2), cs.Padding(2), "protocol_identifier" / cs.Nibble
)

FC_TRANSPORT_ID: Final = Form(  # SPC-4 7.6.4
    "TransportID", _PROTOCOL, cs.Padding(7), "n_port_name" / cs.Int64ub, cs.Padding(8)
)

SPI_TRANSPORT_ID: Final = Form(  # SPC-4 7.6.4
    "TransportID",
    _PROTOCOL,
    cs.Padding(1),
    "scsi_address" / cs.Int16ub,
    cs.Padding(2),
    "relative_target_port_identifier" / cs.Int16ub,
    cs.Padding(16),
)

SRP_TRANSPORT_ID: Final = Form(  # SPC-4 7.6.4
    "TransportID", _PROTOCOL, cs.Padding(7), "initiator_port_identifier" / cs.Bytes(16)
)

ISCSI_TRANSPORT_ID: Final = Form(  # SPC-4 7.6.4; the name follows
    "iSCSI TransportID", _PROTOCOL, cs.Padding(1), "additional_length" / cs.Int16ub
)

SAS_TRANSPORT_ID: Final = Form(  # SPC-4 7.6.4
    "TransportID", _PROTOCOL, cs.Padding(3), "sas_address" / cs.Int64ub, cs.Padding(12)
)

SOP_TRANSPORT_ID: Final = Form(  # SPC-4 7.6.4
    "TransportID", _PROTOCOL, cs.Padding(1), "routing_id" / cs.Int16ub, cs.Padding(20)
)

FORMAT_CODE_SHIFT: Final = FC_TRANSPORT_ID.shift("format_code")
PROTOCOL_IDENTIFIER: Final = FC_TRANSPORT_ID.mask("protocol_identifier")

# ---- INQUIRY data ---------------------------------------------------------------------------

_PERIPHERAL = "peripheral" / cs.BitStruct(
    "peripheral_qualifier" / cs.BitsInteger(3), "peripheral_device_type" / cs.BitsInteger(5)
)

INQUIRY_NAMES: Final = Form(  # bytes 8 to 35 of standard INQUIRY data
    "standard INQUIRY data",
    "t10_vendor_identification" / cs.Bytes(8),
    "product_identification" / cs.Bytes(16),
    "product_revision_level" / cs.Bytes(4),
)

IDENTIFICATION_PAGE: Final = Form(  # SPC-4 7.8.6; designation descriptors follow
    "VPD page 0x83", _PERIPHERAL, "page_code" / cs.Int8ub, "page_length" / cs.Int16ub
)

DESIGNATION_DESCRIPTOR: Final = Form(  # SPC-4 7.8.6; the designator follows
    "designation descriptor",
    "byte_0" / cs.BitStruct("protocol_identifier" / cs.Nibble, "code_set" / cs.Nibble),
    "byte_1"
    / cs.BitStruct(
        "piv" / cs.Flag,
        cs.Padding(1),
        "association" / cs.BitsInteger(2),
        "designator_type" / cs.Nibble,
    ),
    cs.Padding(1),
    "designator_length" / cs.Int8ub,
)

CODE_SET: Final = DESIGNATION_DESCRIPTOR.mask("code_set")
DESIGNATOR_PROTOCOL_SHIFT: Final = DESIGNATION_DESCRIPTOR.shift("protocol_identifier")
ASSOCIATION: Final = DESIGNATION_DESCRIPTOR.mask("association")
ASSOCIATION_SHIFT: Final = DESIGNATION_DESCRIPTOR.shift("association")
DESIGNATOR_TYPE: Final = DESIGNATION_DESCRIPTOR.mask("designator_type")

# ---- Sense data -----------------------------------------------------------------------------

FIXED_SENSE: Final = Form(  # SPC-4 4.5
    "sense data",
    "byte_0" / cs.BitStruct("valid" / cs.Flag, "response_code" / cs.BitsInteger(7)),
    cs.Padding(1),
    "byte_2"
    / cs.BitStruct(
        "filemark" / cs.Flag,
        "eom" / cs.Flag,
        "ili" / cs.Flag,
        cs.Padding(1),
        "sense_key" / cs.Nibble,
    ),
    "information" / cs.Int32ub,
    "additional_sense_length" / cs.Int8ub,
    "command_specific_information" / cs.Int32ub,
    "additional_sense_code" / cs.Int8ub,
    "additional_sense_code_qualifier" / cs.Int8ub,
    "field_replaceable_unit_code" / cs.Int8ub,
    "sense_key_specific_information" / cs.Bytes(3),
)

DESCRIPTOR_SENSE: Final = Form(  # SPC-4 4.5; sense data descriptors follow
    "sense data",
    "byte_0" / cs.BitStruct(cs.Padding(1), "response_code" / cs.BitsInteger(7)),
    "byte_1" / cs.BitStruct(cs.Padding(4), "sense_key" / cs.Nibble),
    "additional_sense_code" / cs.Int8ub,
    "additional_sense_code_qualifier" / cs.Int8ub,
    cs.Padding(3),
    "additional_sense_length" / cs.Int8ub,
)

RESPONSE_CODE: Final = FIXED_SENSE.mask("response_code")
SENSE_KEY: Final = FIXED_SENSE.mask("sense_key")
"""Of byte 2 in the fixed format, of byte 1 in the descriptor format."""
SENSE_LENGTH_AT: Final = FIXED_SENSE.offset("additional_sense_length")
"""In both formats.  What it counts begins behind it."""
