#!/bin/sh
# Start User-Mode Linux in a Debian 13 tree, inside the mount and pid namespaces that the caller (lab.py) made.
#   launch.sh TREE CHECKOUT FOLDER PYCACHE KERNEL-ARGUMENT...
# The tree is never changed: a tmpfs overlay takes all writes. What outlives a power cut is in FOLDER:
# disks/ (the disk files), etc/ (/etc/hatchery), lab/ (requests and answers). This shell stays the namespace's first
# process, so that an end of the kernel, however it comes, ends everything.
set -eu
tree=$1 checkout=$2 folder=$3 pycache=$4
shift 4
root=$folder/root/tree

mount -t tmpfs -o mode=0755 hatchery-lab "$folder/root"
mkdir "$folder/root/upper" "$folder/root/work" "$root"
mount -t overlay -o "lowerdir=$tree,upperdir=$folder/root/upper,workdir=$folder/root/work" hatchery-lab "$root"
mkdir -p "$root/hatchery" "$root/lab" "$root/disks" "$root/etc/hatchery" "$root/lib/modules" "$root/proc" "$root/dev" \
    "$root/var/cache/pycache"
mount --bind "$checkout" "$root/hatchery"
mount -o remount,bind,ro "$root/hatchery"
mount --bind "$folder/lab" "$root/lab"
mount --bind "$folder/disks" "$root/disks"
# Byte code of the checkout, kept between labs: compiling it at each start costs a second.
mount --bind "$pycache" "$root/var/cache/pycache"
mount --bind "$folder/etc" "$root/etc/hatchery"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 hatchery-lab "$root/dev"
for node in null zero random urandom; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/shm"
# The kernel maps its memory from a file here, executable.
mount -t tmpfs -o mode=1777,exec hatchery-lab "$root/dev/shm"
cd /
# xstate.so: for processors whose extended state is larger than User-Mode Linux knows (mkosi.images/lab/xstate.c).
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/dev/shm \
    chroot "$root" /usr/bin/env LD_PRELOAD=/usr/lib/uml/xstate.so /usr/bin/linux.uml "$@"
