"""Commands whose submission nobody saw, in memory that others had before: nobody is named."""

from __future__ import annotations

from agent import Agent
from attach import collect, send
from load import check_oracle, counters, fresh, target

from prtrace.linux.sgio import SgDevice
from prtrace.probe import pins

_KEYS = range(1, 5)


def register(device: SgDevice) -> None:
    """One registration after the other."""
    for key in _KEYS:
        send(device, 6, bytes(8), key.to_bytes(8, "big")).expect_good("REGISTER")


def main() -> None:
    """With the program at the submission, and without it, until the next agent brings it back."""
    built = target().units[0]
    fresh()
    with Agent() as agent, SgDevice(built.paths[0].block) as device:
        agent.settled(30)
        collect(device)
        register(device)
        agent.kill()
        (pins.epochs()[-1].generations[-1].path / "pr_submit").unlink()
        register(device)
        agent.start()
        sent = [each for each in agent.events() if each["command"] == "PR OUT"]
        print([(each["comm"], each["head"], each["start_ns"], each["effect"]) for each in sent])
        seen, unseen = sent[: len(_KEYS)], sent[len(_KEYS) :]
        assert [int(each["sa_key"], 16) for each in seen] == [*_KEYS]
        # Where the list lies is read at submission.
        assert all(each["data"] == "" and each["problem"] for each in unseen)
        assert all(each["pid"] and each["head"] == each["data"] for each in seen)
        assert all(each["pid"] is None and not each["head"] for each in unseen)
        assert all("in doubt" in each["effect"] for each in unseen)
        assert counters(agent)["not_submitted"] == len(unseen)
        assert "replaced programs that lacked pr_submit" in agent.log
        [unit] = agent.settled(30)
        check_oracle(unit, built)
        assert "Traceback" not in agent.log
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
