"""What decode says of lines."""

from dataclasses import replace

from paste.test_kernel import CONFLICT
from prtrace.paste.reader import read_text
from prtrace.paste.shown import shown, shown_in_order

KEYS = """\
# sg_persist -n -k -v /dev/sdd
    Persistent reservation in cdb: [5e 00 00 00 00 00 00 20 00 00]
  PR generation=0x1c, 2 registered reservation keys follow:
    0x7
    0x7
"""
REFUSED = """\
# sg_persist -n --out --{typed} --param-rk={key:#x} -vv /dev/{disk}
    Persistent reservation out cdb: [5f {action:02x} 00 00 00 00 00 00 18 00]
    Persistent reservation out parameters:
 00     00 00 00 00 00 00 00 {key:02x}  00 00 00 00 00 00 0a bc    ................
 10     00 00 00 00 00 00 00 00                             ........
PR out ({typed}): Reservation conflict
"""


def refused(action=3, key=7, disk="sdd", before=KEYS):
    """What is said of a command that was refused, after what stands before it."""
    text = before + REFUSED.format(typed="Clear", action=action, key=key, disk=disk)
    *_, (_, last) = shown_in_order(read_text(text), None)
    assert last.title == "RESERVATION CONFLICT"
    return [(each.kind, each.text) for each in last.explanations]


def test_a_refused_command_says_which_rule_it_can_have_met():
    for action in (0, 1, 2, 3, 4, 5):
        (kind, text), *_ = refused(action)
        assert kind == "refused"
        assert "this nexus is not registered" in text
        assert "registered with another key" in text
        assert "SPC-2" in text
    ((_, text),) = refused(action=6)
    assert "registered" not in text, "REGISTER AND IGNORE looks at no key"
    assert "no registration has key 0x0000000000000abc" in refused(action=4)[0][1]
    assert refused(action=0, key=0)[0][1].startswith("one of these: this nexus is registered")


def test_keys_that_were_read_before_tell_whose_the_key_is_not():
    assert any("lists 0x0000000000000007 2 times" in text for _, text in refused())
    assert any("does not list 0x0000000000000009" in text for _, text in refused(key=9))
    of_another_disk = refused(disk="sde")
    done = REFUSED.format(typed="Register", action=6, key=7, disk="sdd").replace(
        ": Reservation conflict", ": command (Register) successful"
    )
    done = done.replace("PR out (Register): ", "PR out: ")
    outdated = refused(before=KEYS + done)
    not_by_the_key_alone = refused(action=4)
    for said in (of_another_disk, outdated, not_by_the_key_alone):
        assert not any("READ KEYS of line" in text for _, text in said)


def test_the_parameter_list_says_what_the_cdb_cannot():
    text = REFUSED.format(typed="Clear", action=6, key=0, disk="sdd")
    command, listed, _ = [each for _, each in shown_in_order(read_text(text), None)]
    assert command.explanations == ()
    assert "with key 0x0000000000000abc" in listed.explanations[0].text


def test_a_command_of_which_only_the_service_action_is_there():
    text = "PR out (Clear): Reservation conflict\nPR in (Read keys): Reservation conflict\n"
    found = [each for _, each in shown_in_order(read_text(text), None)]
    assert [each.title for each in found] == [
        "PERSISTENT RESERVE OUT",
        "RESERVATION CONFLICT",
        "PERSISTENT RESERVE IN",
        "RESERVATION CONFLICT",
    ]
    assert "this nexus is not registered" in found[1].explanations[0].text
    assert found[3].explanations[0].text.startswith("another nexus has an SPC-2 reservation")


def test_an_ordinary_command_that_was_refused():
    text = "sd 6:0:0:1: [sdb] tag#1 CDB: Read(10) 28 00 00 00 08 00 00 00 08 00\n"
    seen = replace(read_text(text)[0], status=0x18)
    *_, said = shown(seen, None)
    assert "under EARO or EAAR" in said.explanations[0].text
    assert "WERO" not in said.explanations[0].text


def test_decode_says_that_two_lines_may_be_of_one_command():
    _, command, *_ = read_text(CONFLICT)
    fields = [field for each in shown(command, None) for field in each.fields]
    assert ("perhaps the command", "that line 1 tells of") in [
        (each.name, each.value) for each in fields
    ]
