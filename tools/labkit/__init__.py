"""The kernel lab: Debian kernels, a SCSI target, and commands run against it in a virtual machine.

    failure, places, channel        what everything below shares
    mirror, vmlinux -> kernels      Debian's kernels, fetched and unpacked under the cache
    initramfs, accel -> qemu        from a kernel to QEMU's command line
    control -> machine, standing    commands in a running machine; one that stays
    guest (guest.sh) -> build       inside: the server of commands, and the target's builder, with
        lio, iscsi, sysfs           its parts
    target, oracle                  what was built, and LIO's own view of its reservations
    cli                             ./tools/lab

Why not an existing runner: on the machine where this takes 5 s of the guest's time to the first
command, virtme-ng 1.42 takes 11.  It plugs in every driver that QEMU's default devices ask for,
unpacks the kernel in emulation, and its root has no cache.  The layout (the host's root read-only
over 9p, a writable overlay in memory, status over a virtio port) follows drgn's vmtest.
"""
