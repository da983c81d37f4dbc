"""Taking a guest's persistent reservations to another host, and bringing them back.

The typed API for migration software, to be used as root; what goes wrong is a PrtraceError.
The same over a socket: Check, Save, Load, Rollback and Finish of io.prtrace.

On the source, while the guest is paused:

    from prtrace.linux.units import scan
    from prtrace.move import actions, saving
    from prtrace.move.side import find_sides

    sides = find_sides(scan(), ["/dev/mapper/mpatha"])
    units = actions.read(sides)  # or what the agent observed: "units" of prtrace.show/1
    verdicts = actions.check(sides, units)  # may it move at all?  Ask before it is paused, too
    file = saving.save(units, verdicts, host="source")
    text = file.dump()  # travels to the destination

On the destination, before the guest goes on:

    from prtrace.linux.units import scan
    from prtrace.move import actions, savefile
    from prtrace.move.side import find_loading_sides

    file = savefile.parse(text)
    sides = find_loading_sides(scan(), file, {"/dev/mapper/mpatha": "/dev/mapper/mpathb"})
    report = actions.load(file, sides)
    may_run_here = report.good

On the source again, whichever way it went:

    from prtrace.linux.units import scan
    from prtrace.move import actions, finishing, savefile
    from prtrace.move.side import find_saved_sides

    file = savefile.parse(text)
    sides = find_saved_sides(scan(), file)
    if may_run_here:
        remains = finishing.finish(file, sides)
    else:
        may_run_here = actions.rollback(file, sides).good

What these decide is decided by pure modules: verdict (may it move), savefile (what travels),
handover and decision (which command comes next), memory (what must survive a kill -9).
"""
