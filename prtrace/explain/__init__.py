"""Who did this to my disk, and what may I do about it (pure).

Events of one host or of several go in, what they mean for one logical unit comes out: who holds
the reservation, what each path may do, each refused command and lost registration with the
facts that led to it, what cannot be known, and what could be done about it.

    recording   what one host recorded
    timeline    its events of one unit, each with the state before and after
    incident    what went wrong, as a chain of links; causes finds them
    owners      whose reservation key it may be
    ports       which host an initiator port belongs to
    remedies    what may be done, and what it would cost whom
    account     all of it as the prtrace.explain/1 object
"""
