"""The declarations against the standard's tables, written down here a second time by hand, and
against construct's own parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.scsi import forms
from prtrace.scsi.form import Form

SCOPE_TYPE = {"scope": 0xF0, "type": 0x0F}

# form: its size, and for each field (first byte, bytes) or (byte, {field of bits: mask}).
STANDARD = {
    "TEST_UNIT_READY_CDB": (6, {"operation_code": (0, 1), "control": (5, 1)}),
    "REQUEST_SENSE_CDB": (
        6,
        {
            "operation_code": (0, 1),
            "flags": (1, {"desc": 0x01}),
            "allocation_length": (4, 1),
            "control": (5, 1),
        },
    ),
    "INQUIRY_CDB": (
        6,
        {
            "operation_code": (0, 1),
            "flags": (1, {"evpd": 0x01}),
            "page_code": (2, 1),
            "allocation_length": (3, 2),
            "control": (5, 1),
        },
    ),
    "PR_IN_CDB": (
        10,
        {
            "operation_code": (0, 1),
            "byte_1": (1, {"service_action": 0x1F}),
            "allocation_length": (7, 2),
            "control": (9, 1),
        },
    ),
    "PR_OUT_CDB": (
        10,
        {
            "operation_code": (0, 1),
            "byte_1": (1, {"service_action": 0x1F}),
            "scope_type": (2, SCOPE_TYPE),
            "parameter_list_length": (5, 4),
            "control": (9, 1),
        },
    ),
    "RESERVE_RELEASE_6_CDB": (
        6,
        {
            "operation_code": (0, 1),
            "flags": (1, {"3rdpty": 0x10, "third_party_device_id": 0x0E, "extent": 0x01}),
            "reservation_identification": (2, 1),
            "parameter_list_length": (3, 2),
            "control": (5, 1),
        },
    ),
    "RESERVE_RELEASE_10_CDB": (
        10,
        {
            "operation_code": (0, 1),
            "flags": (1, {"3rdpty": 0x10, "longid": 0x02, "extent": 0x01}),
            "reservation_identification": (2, 1),
            "third_party_device_id": (3, 1),
            "parameter_list_length": (7, 2),
            "control": (9, 1),
        },
    ),
    "BASIC_PARAMETER_LIST": (
        24,
        {
            "reservation_key": (0, 8),
            "service_action_reservation_key": (8, 8),
            "obsolete_scope_specific_address": (16, 4),
            "flags": (20, {"spec_i_pt": 0x08, "all_tg_pt": 0x04, "aptpl": 0x01}),
            "obsolete_extent_length": (22, 2),
        },
    ),
    "SPEC_I_PT_LIST": (4, {"transportid_parameter_data_length": (0, 4)}),
    "REGISTER_AND_MOVE_LIST": (
        24,
        {
            "reservation_key": (0, 8),
            "service_action_reservation_key": (8, 8),
            "flags": (17, {"unreg": 0x02, "aptpl": 0x01}),
            "relative_target_port_identifier": (18, 2),
            "transportid_length": (20, 4),
        },
    ),
    "READ_KEYS": (8, {"prgeneration": (0, 4), "additional_length": (4, 4)}),
    "READ_RESERVATION": (8, {"prgeneration": (0, 4), "additional_length": (4, 4)}),
    "RESERVATION": (
        16,
        {
            "reservation_key": (0, 8),
            "obsolete_scope_specific_address": (8, 4),
            "scope_type": (13, SCOPE_TYPE),
            "obsolete_extent_length": (14, 2),
        },
    ),
    "REPORT_CAPABILITIES": (
        8,
        {
            "length": (0, 2),
            "capabilities": (
                2,
                {"rlr_c": 0x80, "crh": 0x10, "sip_c": 0x08, "atp_c": 0x04, "ptpl_c": 0x01},
            ),
            "byte_3": (3, {"tmv": 0x80, "allow_commands": 0x70, "ptpl_a": 0x01}),
            "persistent_reservation_type_mask": (
                4,
                {
                    "wr_ex_ar": 0x8000,
                    "ex_ac_ro": 0x4000,
                    "wr_ex_ro": 0x2000,
                    "ex_ac": 0x0800,
                    "wr_ex": 0x0200,
                    "ex_ac_ar": 0x0001,
                },
            ),
        },
    ),
    "READ_FULL_STATUS": (8, {"prgeneration": (0, 4), "additional_length": (4, 4)}),
    "FULL_STATUS_DESCRIPTOR": (
        24,
        {
            "reservation_key": (0, 8),
            "flags": (12, {"all_tg_pt": 0x02, "r_holder": 0x01}),
            "scope_type": (13, SCOPE_TYPE),
            "relative_target_port_identifier": (18, 2),
            "additional_descriptor_length": (20, 4),
        },
    ),
    "INQUIRY_NAMES": (
        28,
        {
            "t10_vendor_identification": (0, 8),
            "product_identification": (8, 16),
            "product_revision_level": (24, 4),
        },
    ),
    "IDENTIFICATION_PAGE": (
        4,
        {
            "peripheral": (0, {"peripheral_qualifier": 0xE0, "peripheral_device_type": 0x1F}),
            "page_code": (1, 1),
            "page_length": (2, 2),
        },
    ),
    "DESIGNATION_DESCRIPTOR": (
        4,
        {
            "byte_0": (0, {"protocol_identifier": 0xF0, "code_set": 0x0F}),
            "byte_1": (1, {"piv": 0x80, "association": 0x30, "designator_type": 0x0F}),
            "designator_length": (3, 1),
        },
    ),
    "FIXED_SENSE": (
        18,
        {
            "byte_0": (0, {"valid": 0x80, "response_code": 0x7F}),
            "byte_2": (2, {"filemark": 0x80, "eom": 0x40, "ili": 0x20, "sense_key": 0x0F}),
            "information": (3, 4),
            "additional_sense_length": (7, 1),
            "command_specific_information": (8, 4),
            "additional_sense_code": (12, 1),
            "additional_sense_code_qualifier": (13, 1),
            "field_replaceable_unit_code": (14, 1),
            "sense_key_specific_information": (15, 3),
        },
    ),
    "DESCRIPTOR_SENSE": (
        8,
        {
            "byte_0": (0, {"response_code": 0x7F}),
            "byte_1": (1, {"sense_key": 0x0F}),
            "additional_sense_code": (2, 1),
            "additional_sense_code_qualifier": (3, 1),
            "additional_sense_length": (7, 1),
        },
    ),
}
PROTOCOL = (0, {"format_code": 0xC0, "protocol_identifier": 0x0F})
STANDARD |= {
    f"{name}_TRANSPORT_ID": (size, {"byte_0": PROTOCOL, **fields})
    for name, size, fields in [
        ("FC", 24, {"n_port_name": (8, 8)}),
        ("SPI", 24, {"scsi_address": (2, 2), "relative_target_port_identifier": (6, 2)}),
        ("SRP", 24, {"initiator_port_identifier": (8, 16)}),
        ("ISCSI", 4, {"additional_length": (2, 2)}),
        ("SAS", 24, {"sas_address": (4, 8)}),
        ("SOP", 24, {"routing_id": (2, 2)}),
    ]
}

FORMS = {name: each for name, each in vars(forms).items() if isinstance(each, Form)}


def test_every_form_is_in_the_table():
    assert FORMS.keys() == STANDARD.keys()


@pytest.mark.parametrize("name", STANDARD)
def test_a_form_lies_as_the_standard_says(name):
    size, fields = STANDARD[name]
    form = FORMS[name]
    assert form.size == size
    assert [each.name for each in form.declared] == list(fields)
    for field, (offset, what) in fields.items():
        declared = form.field(field)
        assert declared.offset == offset, field
        if isinstance(what, dict):
            assert {bits.name: bits.mask for bits in declared.bits} == what, field
        else:
            assert (declared.size, declared.bits) == (what, ()), field


@pytest.mark.parametrize("name", STANDARD)
@given(st.data())
def test_construct_reads_the_same_from_any_bytes(name, data):
    form = FORMS[name]
    raw = data.draw(st.binary(min_size=form.size, max_size=form.size))
    ours, theirs = form.parse(raw), form.construct.parse(raw)
    for declared in form.declared:
        value = getattr(ours, declared.name)
        if declared.bits:
            for bits in declared.bits:
                assert bits.of(value) == theirs[declared.name][bits.name]
        else:
            assert value == theirs[declared.name]


def test_masks_that_several_forms_share():
    scoped = (forms.PR_OUT_CDB, forms.RESERVATION, forms.FULL_STATUS_DESCRIPTOR)
    assert {(each.mask("scope"), each.mask("type")) for each in scoped} == {
        (forms.SCOPE, forms.TYPE)
    }
    assert forms.PR_IN_CDB.mask("service_action") == forms.SERVICE_ACTION
    legacy = (forms.RESERVE_RELEASE_6_CDB, forms.RESERVE_RELEASE_10_CDB)
    assert {(each.mask("3rdpty"), each.mask("extent")) for each in legacy} == {
        (forms.THIRD_PARTY, forms.EXTENT)
    }
    sense = (forms.FIXED_SENSE, forms.DESCRIPTOR_SENSE)
    assert {each.mask("sense_key") for each in sense} == {forms.SENSE_KEY}
    assert {each.mask("response_code") for each in sense} == {forms.RESPONSE_CODE}
    assert {each.offset("additional_sense_length") for each in sense} == {forms.SENSE_LENGTH_AT}
