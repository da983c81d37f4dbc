"""Log lines that several tests read, and their fixtures."""

from pathlib import Path

from prtrace.paste.reader import read_text

FIXTURES = Path(__file__).parents[2] / "fixtures" / "paste"
RESERVE = bytes.fromhex("5f010500000000001800")


def only(text):
    """What is seen in a text that tells of one command or fact."""
    (seen,) = read_text(text)
    return seen


def fixture(name):
    return (FIXTURES / name).read_text()
