#!/bin/sh
# Installs, on Debian, the programs that the tests and the demo drive, or a cross compiler, where they are missing.
# Quick when nothing is. Starts no service: packages are told not to, and what runs is left alone.
# usage: deps.sh [test|demo|aarch64]
set -eu

# program:package
wanted="cc:gcc containerd:containerd runc:runc docker-registry:docker-registry fusermount3:fuse3
    ip:iproute2 tc:iproute2 busybox:busybox-static zstd:zstd skopeo:skopeo nginx:nginx openssl:openssl tar:tar mount:mount setsid:util-linux"
if [ "${1:-demo}" = aarch64 ]; then
    wanted=aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu
elif [ "${1:-demo}" = demo ]; then
    wanted="$wanted debootstrap:debootstrap buildah:buildah gzip:gzip"
else
    wanted="$wanted go:golang-go"
fi

# A module that is not loaded has no device; where modules cannot be loaded, tests say what they miss.
if [ "$(id -u)" = 0 ] && [ ! -e /dev/fuse ]; then
    modprobe fuse 2> /dev/null || true
fi

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
packages=
for pair in $wanted; do
    if ! command -v "${pair%%:*}" > /dev/null; then
        packages="$packages ${pair#*:}"
    fi
done
# A compiler without the C library's headers cannot build the C that zstd is written in.
[ -e /usr/include/stdlib.h ] || packages="$packages libc6-dev"
[ "${1:-demo}" != aarch64 ] || [ -e /usr/aarch64-linux-gnu/include/stdlib.h ] ||
    packages="$packages libc6-dev-arm64-cross"
# containerd's own tests of snapshotters, which have no program.
[ "${1:-demo}" != test ] || [ -e /usr/share/gocode/src/github.com/containerd/containerd/snapshots/testsuite ] ||
    packages="$packages golang-github-containerd-containerd-dev"
[ -n "$packages" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "not root: not installing$packages; what needs them is skipped" >&2
    exit 0
fi
if ! command -v apt-get > /dev/null; then
    echo "no apt-get here: please install$packages by hand" >&2
    exit 1
fi

echo "installing$packages"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\n# No package starts a service while the tests install what they need.\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list of words
{
    apt-get -qq update
    apt-get -qqy -o Dpkg::Use-Pty=0 install --no-install-recommends $packages
} > /dev/null
