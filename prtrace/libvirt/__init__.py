"""libvirt moves a guest, and its reservation goes along: the service prtrace-libvirt.

`machine` decides (pure); `domain` and `note` read what libvirt's XML says of a guest; `agent`
makes the calls of io.prtrace; `guests` remembers; `server` is asked by libvirt's hook
(`qemu-hook`) and by its lock-manager plugin (`prtrace-lock.c`); `hypervisor` is libvirtd;
`service` carries out.
"""
