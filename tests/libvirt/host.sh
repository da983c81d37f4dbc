#!/bin/bash
# host.sh ROOT NAME ADDRESS NODE LOCK: in namespaces of its own (unshare -m -u -n): a host with libvirtd.
# The Debian root ROOT is the lower layer of its file system, /dev/lun leads to NODE, and the
# interface v$NAME has ADDRESS.  LOCK is the lock-manager plugin, or nothing.  The host is there as
# long as this process.
set -e
ROOT=$1 NAME=$2 ADDRESS=$3 NODE=$4 LOCK=$5
HOSTS=/run/lab/hosts H=/run/lab/hosts/$NAME R=/run/lab/hosts/$NAME/root
mount --make-rprivate /
mkdir -p "$H/upper" "$H/work" "$R" "$HOSTS/shared" "$HOSTS/cache"
mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=$H/upper,workdir=$H/work" "$R"
mount -t proc proc "$R/proc"
mount --rbind /sys "$R/sys"
mount -t bpf bpf "$R/sys/fs/bpf"
mount -t tmpfs -o mode=755 run "$R/run"
mount -t tmpfs tmp "$R/tmp"
mount -t tmpfs -o mode=755 dev "$R/dev"
mkdir -p "$R/dev/pts" "$R/dev/shm" "$R/dev/net" "$R/shared" "$R/var/lib/prtrace"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$R/dev/pts"
ln -s pts/ptmx "$R/dev/ptmx"
mount -t tmpfs shm "$R/dev/shm"
for node in null zero random urandom full tty; do cp -a "/dev/$node" "$R/dev/"; done
cp -a "$NODE" "$R/dev/lun"
cp -a /dev/sd* /dev/sg* "$R/dev/"
mount --bind "$HOSTS/shared" "$R/shared"
# QEMU's capabilities are probed by the first daemon that asks, a minute, and the other takes them over.
mkdir -p "$R/var/cache/libvirt"
mount --bind "$HOSTS/cache" "$R/var/cache/libvirt"
# prtrace as it lies in the checkout, at the same place, so that its compiled modules count here, too.
for folder in "$CHECKOUT" "$PYTHONPYCACHEPREFIX"; do
    mkdir -p "$R$folder"
    mount --bind "$folder" "$R$folder"
done
mkdir -p "$R/etc/libvirt/hooks/qemu.d"
install -m 755 "$CHECKOUT/prtrace/libvirt/qemu-hook" "$R/etc/libvirt/hooks/qemu.d/prtrace"
[ -z "$LOCK" ] || install -D "$LOCK" "$R/usr/lib/x86_64-linux-gnu/libvirt/lock-driver/prtrace.so"
# As whom the agent reads what others send.
chroot "$R" useradd --system --shell /usr/sbin/nologin prtrace
hostname "$NAME"
echo "$NAME" >"$R/etc/hostname"
printf '127.0.0.1 localhost\n10.9.0.1 a\n10.9.0.2 b\n' >"$R/etc/hosts"
cat >"$R/etc/libvirt/libvirtd.conf" <<X
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
host_uuid = "00000000-0000-4000-8000-00000000000$([ "$NAME" = a ] && echo 1 || echo 2)"
log_level = 3
log_outputs = "1:file:/shared/libvirtd.$NAME.log"
log_filters = "1:qemu.qemu_migration 1:util.hook 1:locking 3:*"
X
cat >"$R/etc/libvirt/qemu.conf" <<X
namespaces = [ ]
cgroup_controllers = [ ]
security_driver = "none"
user = "root"
group = "root"
stdio_handler = "file"
migrate_tls_force = 0
$([ -z "$LOCK" ] || echo 'lock_manager = "prtrace"')
X
ip link set lo up
for _ in {1..100}; do ip link set "v$NAME" up 2>/dev/null && break; sleep 0.1; done
ip address add "$ADDRESS/24" dev "v$NAME"
touch "$H/ready"
exec sleep infinity
