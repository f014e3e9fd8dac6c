# The lab's first process once the host's file system is its root: what a distribution's early boot sets up, then the command.
b=/run/lab/busybox
umask 022
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
$b mkdir -p /dev/pts /dev/shm
$b mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
$b mount -t tmpfs -o mode=1777 tmpfs /dev/shm
$b mount -t tmpfs -o mode=1777 tmpfs /tmp
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
$b ip link set lo up
$b hostname lab

# As udev has it on Debian: the group that may use KVM, and the modes of devices.
$b grep -q '^kvm:' /etc/group || echo 'kvm:x:993:' >>/etc/group
$b chmod 666 /dev/net/tun /dev/fuse 2>/dev/null
if [ -e /dev/kvm ]; then
    $b chgrp kvm /dev/kvm
    $b chmod 660 /dev/kvm
fi

port=$(echo /dev/vport*p1)
port=${port%1}
# A port of the serial device can be opened once, and a command may want to open its own /dev/stdout.
$b mkfifo /run/lab/out /run/lab/err
$b cat /run/lab/out >"$port"1 &
out=$!
$b cat /run/lab/err >"$port"2 &
err=$!
$b setsid /bin/sh /run/lab/command.sh </dev/null >/run/lab/out 2>/run/lab/err
status=$?

# What the command left running holds its output open.
for process in /proc/[0-9]*; do
    process=${process#/proc/}
    case $process in
    1 | $out | $err) ;;
    *) kill -9 "$process" 2>/dev/null ;;
    esac
done
wait $out $err
echo "$status" >"$port"3
$b poweroff -f
