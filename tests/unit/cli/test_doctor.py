"""prtrace doctor."""

import json

from shipped import valid


def test_doctor_says_what_is_missing(prtrace):
    done = prtrace("doctor", "--json", "--socket", "/nope")
    found = valid(json.loads(done.stdout), "doctor.1")
    can = found["engines"]
    assert done.returncode == (0 if can["core"] or can["bcc"] else 1)
    verdicts = {check["name"]: check for check in found["checks"]}
    assert verdicts["agent"]["verdict"] == "warn"
    assert verdicts["agent"]["fix"] == "prtrace agent"
    assert all(check["fix"] for check in found["checks"] if check["verdict"] == "missing")
    text = prtrace("doctor", "--socket", "/nope")
    assert text.returncode == done.returncode
    assert all(len(line) <= 80 for line in text.stdout.splitlines())
    for check in found["checks"]:
        assert check["name"] in text.stdout
