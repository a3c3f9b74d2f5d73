#!/bin/sh
# Removes everything that lives in a scratch directory: containers, processes, mounts, the network
# namespaces of the same name (that, or that with a dash and more), and the directory. Waits for the end of its input first, which the
# kernel brings about however the owner dies. Harmless to run twice.
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
mounted() {
    awk -v below="$dir/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac
}

for container in "$dir"/*/runc/*/*/; do
    [ -d "$container" ] || continue
    container=${container%/}
    runc --root "${container%/*}" delete --force "${container##*/}" > /dev/null 2>&1
done
for round in 1 2 3 4 5 6 7 8 9 10; do
    pids=$(marked)
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
# Container engines that were told to name their control groups so leave them.
for groups in /sys/fs/cgroup/"$name" /sys/fs/cgroup/*/"$name"; do
    [ ! -d "$groups" ] || find "$groups" -depth -type d -exec rmdir {} + 2> /dev/null
done
for space in /run/netns/"$name" /run/netns/"$name"-*; do
    [ ! -e "$space" ] || ip netns delete "${space##*/}"
done
# A mount that could not be removed must not be emptied through its mount point.
rm -rf --one-file-system "$dir"
