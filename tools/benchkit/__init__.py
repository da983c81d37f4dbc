"""The benchmarks: each measures a figure of prtrace against a named floor or peer, in one run.

    figure                          what a benchmark says: ratios, their aims, their spread
    build                           the C programs that they use
    overhead, start, throughput,    one benchmark each; those that need a machine have a part
        latency, scale, idle, pause,  that runs in it (in_<name>)
        forms, explain
    cli                             ./tools/bench

Where the lab's machine has a clock that is driven by instructions, figures are instructions
and repeat within a percent; elsewhere they are ratios to a peer that was measured alternately.
Nothing here passes or fails: figures are for reading.
"""
