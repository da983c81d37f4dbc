"""Taking a guest's persistent reservations to another host, and bringing them back.

    sides = find_sides(scan(), names)        move.side: which paths are meant
    verdicts = check(sides, units)           move.actions: may it move now?
    file = save(units, verdicts, host=…)     move.saving: on the source, the guest being paused
    report = load(file, sides)               move.actions: on the destination
    report = rollback(file, sides)           move.actions: on the source, after a failure
    remains = finish(file, sides)            move.finishing: on the source, after success

What they decide is decided by pure modules: verdict (may it move), savefile (what travels),
handover and decision (which command comes next), memory (what must survive a kill -9).
"""
