#!/bin/sh
# Runs the program of an unpacked image as its container would: the root read-only, the image's user, no capabilities,
# none to be gained. In a mount namespace of its own: unshare --mount strictly.sh ROOT USER COMMAND…
set -eu

root=$1 user=$2
shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /etc/hosts "$root/etc/hosts"
# The devices that OCI's runtime specification promises to every container.
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,ro "$root/dev"
mount -o remount,bind,ro "$root"
# What chroot needs to do its work; it goes with the change of user.
exec setpriv --bounding-set -all,+sys_chroot,+setuid,+setgid --inh-caps -all --no-new-privs \
    chroot --userspec "$user" --groups "" "$root" "$@"
