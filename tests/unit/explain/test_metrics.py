"""The state as metrics; a hostile name stays the value of its label."""

import inspect
import json
import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.explain import metrics as metrics_module
from prtrace.explain.metrics import metrics, unreachable

STATUS = {
    "self_test": {"result": "passed"},
    "store": {"problem": ""},
    "loss": [{"cause": "the ring was full", "count": 2}, {"cause": "no end", "count": 1}],
}
OWN, OTHER = "2:0:0:1", "naa.5,1"
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"')


def registration(nexus, port, *, local, **changes):
    return {
        "nexus": nexus,
        "local": local,
        "initiator_port": port,
        "relative_target_port": 1,
        "source": "observed" if local else "read",
    } | changes


def unit(**changes):
    return {
        "lu": "naa.6",
        "supported": True,
        "as_of": "2026-11-23T12:00:00.250000000Z",
        "generation": 7,
        "reservation": {"type": "WERO", "holders": [OWN]},
        "registrations": [
            registration(OWN, "naa.4", local=True),
            registration(OTHER, "naa.5", local=False),
        ],
        "nexuses": [
            {"nexus": OWN, "initiator_port": "naa.4", "registered": True},
            {"nexus": "2:0:1:1", "initiator_port": "naa.4", "registered": False},
        ],
        "legacy_reservation": None,
        "doubt": [],
        "unknowable": [],
    } | changes


def read(text):
    """The samples, by an own reading of the format: (name, labels in order) -> value."""
    unescaped = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
    found = {}
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# "):
            assert re.match(r"# (HELP|TYPE) [a-z_]+ \S", line), line
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        labels = tuple(
            (name, re.sub(r"\\.", lambda escape: unescaped[escape[0]], value))
            for name, value in LABEL.findall(sample[2] or "")
        )
        assert (sample[1], labels) not in found, line
        found[sample[1], labels] = float(sample[3])
    return found


def samples(name, *units, conflicts=(), details=False):
    """The samples of one name: labels -> value."""
    text = metrics({"units": units}, STATUS, conflicts, details=details)
    return {labels: value for (of, labels), value in read(text).items() if of == name}


def test_a_unit_without_doubt():
    lu = ("lu", "naa.6")
    assert samples("prtrace_up", unit()) == {(): 1}
    assert samples("prtrace_generation", unit()) == {(lu,): 7}
    assert samples("prtrace_reserved", unit()) == {(lu,): 1}
    assert samples("prtrace_reserved", unit(reservation=None)) == {(lu,): 0}
    assert samples("prtrace_in_doubt", unit()) == {
        (lu, ("fact", fact)): 0 for fact in ("registrations", "reservation", "generation")
    }
    name = "prtrace_last_confirmation_timestamp_seconds"
    assert samples(name, unit()) == {(lu,): 1795435200.25}
    assert samples(name, unit(as_of=None)) == {}
    assert samples("prtrace_lost", unit()) == {(): 3}


@pytest.mark.parametrize("where", ["doubt", "unknowable"])
@pytest.mark.parametrize(
    ("fact", "name"), [("generation", "prtrace_generation"), ("reservation", "prtrace_reserved")]
)
def test_what_is_not_certain_has_no_sample(where, fact, name):
    doubtful = unit(**{where: [{"what": fact, "reason": "lost"}]})
    assert samples(name, doubtful) == {}
    assert samples("prtrace_in_doubt", doubtful)[("lu", "naa.6"), ("fact", fact)] == 1


def test_a_unit_without_persistent_reservations_has_no_sample():
    assert "naa.6" not in metrics({"units": [unit(supported=False)]}, STATUS, details=True)


def test_a_doubt_of_a_device_that_says_it_has_no_reservations_is_told():
    """A reservation of SPC-2 refuses commands there as well."""
    doubted = unit(supported=False, generation=None, doubt=[{"what": "reservation", "reason": ""}])
    assert samples("prtrace_in_doubt", doubted)[("lu", "naa.6"), ("fact", "reservation")] == 1
    assert samples("prtrace_reserved", doubted) == {}


def test_few_series_without_details():
    text = metrics({"units": [unit()]}, STATUS)
    assert "_info" not in text
    assert len([line for line in text.splitlines() if "naa.6" in line]) == 6


def test_details_say_whose_a_registration_is():
    found = samples("prtrace_registration_info", unit(), details=True)
    assert [dict(labels) for labels in found] == [
        {"lu": "naa.6", "initiator_port": "naa.4", "rtpi": "1", "own": "yes",
         "source": "observed", "certain": "yes"},
        {"lu": "naa.6", "initiator_port": "naa.5", "rtpi": "1", "own": "no",
         "source": "read", "certain": "yes"},
    ]  # fmt: skip
    assert samples("prtrace_port_info", unit(), details=True) == {
        (("initiator_port", "naa.4"),): 1
    }


def test_a_registration_that_may_be_this_hosts_is_not_called_anothers():
    maybe = unit(registrations=[registration(OTHER, "naa.5", local=False, maybe_local=True)])
    (labels,) = samples("prtrace_registration_info", maybe, details=True)
    assert dict(labels)["own"] == "unknown"


@pytest.mark.parametrize(
    ("changes", "own", "kind", "certain"),
    [
        ({}, "yes", "WERO", "yes"),
        ({"reservation": {"type": "EA", "holders": [OTHER]}}, "no", "EA", "yes"),
        ({"reservation": {"type": "EA", "holders": ["gone"]}}, "unknown", "EA", "yes"),
        ({"doubt": [{"what": "reservation"}]}, "yes", "WERO", "no"),
        ({"reservation": None, "legacy_reservation": "2:0:1:1"}, "yes", "SPC-2", "yes"),
    ],
)
def test_details_say_who_holds(changes, own, kind, certain):
    (labels,) = samples("prtrace_holder_info", unit(**changes), details=True)
    told = dict(labels)
    assert (told["own"], told["type"], told["certain"]) == (own, kind, certain)


def test_conflicts_are_counted_by_whether_the_path_is_registered():
    def event(nexus, command="CONFLICT", count=2):
        return {"command": command, "lu": "naa.6", "nexus": nexus, "count": count}

    conflicts = [event(OWN), event(OWN), event("2:0:1:1"), event("9:9:9:9"), event(OWN, "PR OUT")]
    found = samples("prtrace_recent_conflicts", unit(), conflicts=conflicts)
    assert {labels[1][1]: value for labels, value in found.items()} == {
        "yes": 4, "no": 2, "unknown": 2
    }  # fmt: skip
    assert samples("prtrace_recent_conflicts", unit()) == {}


def test_an_agent_that_does_not_answer():
    assert read(unreachable()) == {("prtrace_up", ()): 0}


NAMES = st.text(max_size=30) | st.text(alphabet='ab\\"\n{},= #', max_size=30)


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True), NAMES)
def test_a_name_stays_one_value_of_its_label(names, port):
    units = [
        unit(lu=name, registrations=[registration(OTHER, port, local=False)]) for name in names
    ]
    text = metrics({"units": units}, STATUS, details=True)
    assert all(each.isprintable() or each == "\n" for each in text)
    found = read(text)
    told = {dict(labels)["lu"] for name, labels in found if name == "prtrace_generation"}
    ports = {
        dict(labels)["initiator_port"]
        for name, labels in found
        if name == "prtrace_registration_info"
    }
    readable = {each for each in names if each.replace("\n", "").isprintable()}
    assert readable <= told
    assert len(told) <= len(names)
    assert ports == {port} or not port.replace("\n", "").isprintable()


@given(st.lists(NAMES, max_size=3), st.lists(NAMES, max_size=3))
def test_no_series_has_two_samples(names, ports):
    units = [
        unit(
            lu=name,
            registrations=[registration(OTHER, port, local=False) for port in (*ports, *ports)],
        )
        for name in (*names, *names)
    ]
    read(metrics({"units": units}, STATUS, details=True))


FAMILIES = set(re.findall(r'"(prtrace_[a-z_]+)"', inspect.getsource(metrics_module)))
DASHBOARD = json.loads(
    (resources.files("prtrace.prometheus") / "prtrace.dashboard.json").read_text()
)
RULES = (resources.files("prtrace.prometheus") / "prtrace.rules.yml").read_text()


def test_the_dashboard_asks_for_metrics_that_exist():
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    asked.append(DASHBOARD["templating"]["list"][1]["query"])
    named = [set(re.findall(r"\bprtrace_[a-z_]+", expression)) for expression in asked]
    assert all(named), "a panel asks for nothing of prtrace"
    assert set().union(*named) <= FAMILIES


def test_the_dashboard_and_the_alerts_mean_the_same():
    plain = " ".join(RULES.split())
    for title in ("Registrations without an owner", "Units with two claimants"):
        (panel,) = (each for each in DASHBOARD["panels"] if each["title"] == title)
        expression = panel["targets"][0]["expr"]
        selectors = re.findall(r"prtrace_\w+\{[^}]*\}", expression)
        assert selectors, expression
        assert all(selector in plain for selector in selectors)


def test_panels_lie_beside_each_other():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
