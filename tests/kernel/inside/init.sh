#!/bin/sh
# First process inside User-Mode Linux: mounts, modules, disks with stable names; then the agent, then power off.
# Kernel arguments: lab.disks=plain|faulty|slow:MILLISECONDS lab.nvme=plain|faulty
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=linux
export PYTHONPATH=/hatchery PYTHONPYCACHEPREFIX=/var/cache/pycache
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/disk/by-id
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/lock
mount --bind /usr/lib/uml/modules /lib/modules
hostname lab
ip link set lo up
modprobe -a dm-mod loop 2>/dev/null

argument() { # NAME DEFAULT: a value from the kernel's command line
    value=$(tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p")
    echo "${value:-$2}"
}

wrap() { # DISK NAME TABLE...: a device-mapper device over a disk, for faults and delays
    sectors=$(cat "/sys/block/$1/size")
    name=$2
    shift 2
    dmsetup create --noudevsync "$name" --table "0 $sectors $*"
    dmsetup mknodes "$name"
}

mkdir -p /run/lab
for pair in ubda:0 ubdj:9; do
    disk=${pair%:*} number=${pair#*:}
    [ -e "/sys/block/$disk" ] || continue
    target=$disk
    case $(argument lab.nvme plain) in
    faulty)
        # Partitions on a device-mapper device need help from user space; a loop device over it has real ones.
        modprobe dm-multipath
        wrap "$disk" "lab-disk-$number" linear "/dev/$disk" 0
        target=loop$number
        [ -e "/dev/$target" ] || mknod "/dev/$target" b 7 "$number"
        losetup --direct-io=on --partscan "/dev/$target" "/dev/mapper/lab-disk-$number"
        ;;
    esac
    ln -s "../../$target" "/dev/disk/by-id/nvme-LAB_$number"
done
disks=$(argument lab.disks plain)
for pair in ubdb:1 ubdc:2 ubdd:3 ubde:4 ubdf:5 ubdg:6; do
    disk=${pair%:*} number=${pair#*:}
    [ -e "/sys/block/$disk" ] || continue
    target=$disk
    case $disks in
    faulty) wrap "$disk" "lab-disk-$number" linear "/dev/$disk" 0 && target="mapper/lab-disk-$number" ;;
    slow:*)
        modprobe dm-delay
        wrap "$disk" "lab-disk-$number" delay "/dev/$disk" 0 "${disks#slow:}" && target="mapper/lab-disk-$number"
        ;;
    esac
    ln -s "../../$target" "/dev/disk/by-id/ata-LAB_$number"
done

# What the image adds to its packages and the tree therefore lacks: udev rules (for tests that start udevd) and the
# programs' entry points.
for part in usr/lib/udev/rules.d etc/udev/rules.d usr/bin usr/sbin usr/lib/hatchery; do
    [ -d "/hatchery/mkosi.extra/$part" ] || continue
    mkdir -p "/$part"
    cp -a "/hatchery/mkosi.extra/$part/." "/$part/"
done
entry() { # PATH MODULE
    [ -e "$1" ] && return
    mkdir -p "${1%/*}"
    printf '#!/bin/sh\nexec python3 -c "from %s import main; raise SystemExit(main())" "$@"\n' "$2" >"$1"
    chmod 755 "$1"
}
entry /usr/bin/hatchery appliance.cli.main
entry /usr/sbin/hatcheryd appliance.daemon
entry /usr/sbin/hatchery-store appliance.rescue.main
entry /usr/sbin/hatchery-retry appliance.retry
entry /usr/lib/hatchery/nbd-server appliance.nbd_server

setsid python3 -m tests.kernel.inside.agent /dev/ttyS0 /lab </dev/null
sync
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
