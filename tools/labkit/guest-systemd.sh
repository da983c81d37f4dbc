#!/bin/bash
# The server of commands in a machine with a root and a systemd of its own (tools/labkit/lab.service).
mkdir -p /run/lab/out
mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=1048576,cache=mmap,access=any out /run/lab/out
modprobe -q configfs
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
ip link set lo up
for word in $(</proc/cmdline); do
    case $word in
    lab.address=*) modprobe virtio_net && ip address add "${word#lab.address=}" dev eth0 && ip link set eth0 up ;;
    esac
done
cd / || exit
PYTHONPATH=/lab/checkout/tools PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3 -S \
    -c "from labkit import guest; guest.main()"
