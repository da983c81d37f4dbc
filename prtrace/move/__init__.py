"""Taking a guest's persistent reservations to another host, and bringing them back.

prtrace.move.verbs is the API: save, prepare, load, release, finish, rollback, check and moves,
each composed once; the commands and io.prtrace use nothing else of this room.

What it decides is decided by pure modules: verdict (may it move), savefile (what travels), table
and machine (which command comes next, and whether the guest may run), sight (what a look means),
lines (what must survive a kill -9).  carry, device and journal carry it out.  docs/migration.md
tells the protocol.
"""
