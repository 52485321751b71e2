#!/bin/busybox sh
# The first process of a guest: file systems, modules, then what it was booted for.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox ip link set lo up 2>/dev/null
for module in $(busybox cat /modules/order); do
	busybox insmod "/modules/$module.ko" || echo "lab: no module $module"
done
# Huge pages come by what is asked for alone: khugepaged would make some whenever it wakes.
echo 4294967295 2>/dev/null >/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs
# Files without a name need a real file system: those of the guest's root are shared memory.
if [ -b /dev/ram0 ]; then
	busybox mke2fs -q /dev/ram0 >/dev/null && busybox mount -t ext4 /dev/ram0 /disk ||
		echo "lab: no disk"
	busybox mkswap /dev/ram1 >/dev/null && busybox swapon /dev/ram1 || echo "lab: no swap"
fi
if [ -d /outside ]; then
	busybox mount -t userfault_outside none /outside || echo "lab: the memory type has no files"
fi
tries=0
until [ -c /dev/vport0p1 ] || [ $tries = 200 ]; do
	busybox usleep 20000
	tries=$((tries + 1))
done
. /run
