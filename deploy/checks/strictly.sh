#!/bin/sh
# Runs the program of an unpacked image as its container would: read-only root, the image's user, no capabilities and no
# way to gain any. Run it in its own mount namespace: unshare --mount strictly.sh ROOT USER COMMAND…
set -eu

root=$1 user=$2
shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /etc/hosts "$root/etc/hosts"
# The devices that the OCI runtime specification guarantees to every container.
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,ro "$root/dev"
mount -o remount,bind,ro "$root"
# The capabilities that chroot needs; they are dropped with the change of user.
exec setpriv --bounding-set -all,+sys_chroot,+setuid,+setgid --inh-caps -all --no-new-privs \
    chroot --userspec "$user" --groups "" "$root" "$@"
