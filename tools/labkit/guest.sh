#!/bin/busybox sh
# Process 1 of a lab machine: mounts, then the server of commands.  When that ends, so does the machine.
#
# An emulated processor takes a fifth of a second to start a program, so nothing is started here
# that this shell can do: busybox carries mount, ln and the others in itself.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=linux
exec </dev/null >/dev/console 2>&1

read -r words </proc/cmdline
for word in $words; do
    case $word in
    lab.modules=*) modules=${word#lab.modules=} ;;
    lab.tools=*) tools=${word#lab.tools=} ;;
    lab.pycache=*) pycache=${word#lab.pycache=} ;;
    lab.python=*) python=${word#lab.python=} ;;
    lab.address=*) address=${word#lab.address=} ;;
    esac
done

mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lab/out /run/lock /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# For this mount the kernel asks for a module that Debian does not build: half a second of modprobe.
echo >/proc/sys/kernel/modprobe
mount -t bpf bpf /sys/fs/bpf
echo /sbin/modprobe >/proc/sys/kernel/modprobe
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
[ ! -d /sys/kernel/config ] || mount -t configfs configfs /sys/kernel/config
if grep -qw 9p /proc/filesystems; then
    mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=1048576,cache=mmap,access=any out /run/lab/out
else
    mount -t virtiofs out /run/lab/out
fi

# Modules, and headers where they were fetched (bcc wants them), where every program looks for them.
read -r release </proc/sys/kernel/osrelease
mkdir -p /lib/modules /usr/src
ln -sfn "$modules" "/lib/modules/$release"
root=${modules%/*/*/*}
[ -d "$root/usr/src" ] || root=${root%/*}
for tree in "$root"/usr/src/linux-headers-* "$root"/usr/lib/linux-kbuild-*; do
    [ -d "$tree" ] && ln -sfn "$tree" "${tree#"$root"}"
done

echo lab >/proc/sys/kernel/hostname
ip link set lo up
# The network of two machines: a machine without one has no other interface.
[ -z "$address" ] ||
    { /sbin/modprobe virtio_net && ip address add "$address" dev eth0 && ip link set eth0 up; }

# As whom the agent runs; packages make that user elsewhere.
if ! grep -q '^prtrace:' /etc/passwd; then
    number=999
    while grep -q "^[^:]*:[^:]*:$number:" /etc/passwd /etc/group; do number=$((number - 1)); done
    echo "prtrace:x:$number:$number::/home/prtrace:/usr/sbin/nologin" >>/etc/passwd
    echo "prtrace:x:$number:" >>/etc/group
    echo "prtrace:!:20000::::::" >>/etc/shadow
fi

cd / || exit
# -S: nothing of the machine's own packages is wanted.  -m would import a third of a second's modules.
PYTHONPATH=$tools PYTHONPYCACHEPREFIX=$pycache PYTHONDONTWRITEBYTECODE=1 \
    "$python" -S -c "from labkit import guest; guest.main()"
echo "lab: the server of commands ended with status $?"
sync
echo o >/proc/sysrq-trigger
while :; do sleep 3600; done
