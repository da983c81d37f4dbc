#!/bin/bash
# Process 1 of a lab machine: mounts, then the server of commands.  When that ends, so does the machine.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=linux
exec </dev/null >/dev/console 2>&1

for word in $(</proc/cmdline); do
    case $word in
    lab.modules=*) modules=${word#lab.modules=} ;;
    lab.tools=*) tools=${word#lab.tools=} ;;
    lab.python=*) python=${word#lab.python=} ;;
    lab.address=*) address=${word#lab.address=} ;;
    esac
done

mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lab/out /run/lock /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
if grep -qw 9p /proc/filesystems; then
    mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=1048576,cache=mmap,access=any out /run/lab/out
else
    mount -t virtiofs out /run/lab/out
fi

# Modules, and headers where they were fetched (bcc wants them), where every program looks for them.
mkdir -p /lib/modules /usr/src
ln -sfn "$modules" "/lib/modules/$(uname -r)"
root=${modules%/*/*/*}
[[ -d $root/usr/src ]] || root=${root%/*}
for tree in "$root"/usr/src/linux-headers-* "$root"/usr/lib/linux-kbuild-*; do
    [[ -d $tree ]] && ln -sfn "$tree" "${tree#"$root"}"
done

hostname lab
ip link set lo up
# The network of two machines: a machine without one has no other interface.
[[ -z $address ]] || { modprobe virtio_net && ip address add "$address" dev eth0 && ip link set eth0 up; }
modprobe configfs 2>/dev/null
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config

# As whom the agent runs; packages make that user elsewhere.
getent passwd prtrace >/dev/null || useradd --system --shell /usr/sbin/nologin prtrace

cd / || exit
PYTHONPATH=$tools PYTHONDONTWRITEBYTECODE=1 $python -m labkit.guest
echo "lab: the server of commands ended with status $?"
sync
echo o >/proc/sysrq-trigger
while :; do read -rt 3600 <> <(:); done
