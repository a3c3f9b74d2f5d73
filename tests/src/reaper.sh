#!/bin/sh
# Removes everything that lives in a scratch directory: containers, processes, mounts, the control groups of the same
# name, the network namespaces of that name or that with a dash and more, and the directory. Waits for the end of its
# input first, which the kernel brings about however the owner dies. Harmless to run twice.
# usage: reaper.sh DIRECTORY < pipe
trap '' HUP INT TERM
dir=$1
name=${dir##*/}
case $name in jaunt-[0-9]*-[0-9]*) ;; *) echo "reaper: $dir is no scratch directory" >&2; exit 2 ;; esac
cat > /dev/null
cd / || exit 1

# The harness marks every process it starts by this variable; shims and workers inherit it.
marked() {
    grep -lzxF "JAUNT_SCRATCH=$dir" /proc/[0-9]*/environ 2> /dev/null | cut -d / -f 3
}
# Services of a scratch's systemd bear no mark, but are in its control group. 0 is somebody out of sight.
groups() {
    for group in /sys/fs/cgroup/"$name" /sys/fs/cgroup/*/"$name"; do
        [ ! -d "$group" ] || printf '%s\n' "$group"
    done
}
grouped() {
    groups | while IFS= read -r group; do
        find "$group" -name cgroup.procs -exec cat {} + 2> /dev/null | grep -vxF 0
    done
}
mounted() {
    awk -v below="$dir/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac
}

for container in "$dir"/*/runc/*/*/; do
    [ -d "$container" ] || continue
    container=${container%/}
    runc --root "${container%/*}" delete --force "${container##*/}" > /dev/null 2>&1
done
for round in 1 2 3 4 5 6 7 8 9 10; do
    pids=$(marked; grouped)
    [ -n "$pids" ] || break
    kill -KILL $pids 2> /dev/null
    sleep 0.1
done
for round in 1 2 3 4 5; do
    mounts=$(mounted)
    [ -n "$mounts" ] || break
    printf '%s\n' "$mounts" | while IFS= read -r point; do
        point=$(printf '%b' "$point")
        umount "$point" 2> /dev/null || umount -l "$point" 2> /dev/null
    done
done
# Container engines and a systemd leave them; one that was in use a moment ago may be so still.
for round in 1 2 3 4 5 6 7 8 9 10; do
    left=$(groups)
    [ -n "$left" ] || break
    [ "$round" = 1 ] || sleep 0.1
    printf '%s\n' "$left" | while IFS= read -r group; do
        find "$group" -depth -type d -exec rmdir {} + 2> /dev/null
    done
done
for space in /run/netns/"$name" /run/netns/"$name"-*; do
    [ ! -e "$space" ] || ip netns delete "${space##*/}"
done
# A mount that could not be removed must not be emptied through its mount point.
rm -rf --one-file-system "$dir"
