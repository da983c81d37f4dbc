"""What decode says of lines."""

from paste.test_kernel import CONFLICT
from prtrace.paste.reader import read_text
from prtrace.paste.shown import shown


def test_decode_says_that_two_lines_may_be_of_one_command():
    _, command, *_ = read_text(CONFLICT)
    fields = [field for each in shown(command, None) for field in each.fields]
    assert ("perhaps the command", "that line 1 tells of") in [
        (each.name, each.value) for each in fields
    ]
