#!/busybox sh
# /init of the lab's initramfs: drivers, then the host's own file system as the root, under a layer that keeps every write in memory.
/busybox mkdir -p /proc /sys /dev /host /writes /root
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sysfs /sys
/busybox mount -t devtmpfs devtmpfs /dev

fail() {
    echo "lab: $*" >/dev/console
    /busybox poweroff -f
}

# KVM keeps the processor's rate as it is when it loads. The kernel measures it once in a hurry, and again a second later; where the two differ by more
# than 250 in a million, KVM refuses the later one to every guest ("user requested TSC rate below hardware speed"), whose clock then stands at zero and
# whose timers never fire.
measured() {
    for _ in $(/busybox seq 100); do
        [ "$(/busybox cat /sys/devices/system/clocksource/clocksource0/current_clocksource)" = tsc ] && return
        /busybox sleep 0.1
    done
    echo "lab: the processor's rate is not measured after 10 s" >/dev/console
}

for module in $(/busybox cat /modules/order); do
    case $module in kvm.ko) measured ;; esac
    # Only the hypervisor modules of this processor's maker load: what is missing is found out by whoever needs it.
    /busybox insmod "/modules/$module" || echo "lab: $module did not load" >/dev/console
done

/busybox mount -t virtiofs -o ro host /host || fail "cannot mount the host's file system"
/busybox mount -t tmpfs -o mode=0755 tmpfs /writes || fail "no memory for what is written"
/busybox mkdir /writes/upper /writes/work
/busybox mount -t overlay -o lowerdir=/host,upperdir=/writes/upper,workdir=/writes/work overlay /root || fail "cannot stack a writable layer"
/busybox mount -t tmpfs -o mode=0755 tmpfs /root/run || fail "no /run"
/busybox mkdir /root/run/lab
/busybox cp /busybox /second.sh /command.sh /root/run/lab/
/busybox umount /dev /sys /proc
# Not chroot: the jailer's pivot_root refuses the root of an initramfs.
exec /busybox switch_root /root /run/lab/busybox sh /run/lab/second.sh
