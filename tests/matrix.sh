#!/bin/sh
# Runs the whole-system tests with other versions of containerd, and with engines that this machine lacks.
#
# A Debian release stands for its containerd, runc, podman, Docker, skopeo, buildah and C library. It is a
# minimal root below target/matrix, made once by debootstrap from the mirror that apt uses here; remove that
# directory to have newer ones.
# cargo stays outside and hands each test program to `enter`, which runs it in a mount namespace of its own,
# where the root's /usr covers this machine's. A directory stands for the programs in it.
# usage: matrix.sh RELEASE|DIRECTORY...
#        matrix.sh enter ROOT PROGRAM [ARGUMENTS]
set -eu

roots=$PWD/target/matrix

# What a release's root has. Once it is entered, the rest is this machine's: what tests drive must be in it.
packages() {
    list=containerd,runc,docker-registry,fuse3,iproute2,busybox-static,zstd,procps,podman,skopeo,buildah,docker.io,nginx
    case $1 in
        # Its docker.io has the client, there is no cosign yet, and debootstrap chooses nothing that several packages provide.
        bookworm) echo "$list,netavark,openssl" ;;
        # The first whose erofs-utils read blocks of 512 bytes.
        sid) echo "$list,docker-cli,docker-buildx,cosign,openssl,erofs-utils" ;;
        *) echo "$list,docker-cli,docker-buildx,cosign,openssl" ;;
    esac
}

fail() {
    echo "matrix.sh: $*" >&2
    exit 1
}

enter() {
    root=$1
    shift
    if [ "${MATRIX_ENTERED:-}" != "$root" ]; then
        MATRIX_ENTERED=$root exec unshare --mount --propagation private "$0" enter "$root" "$@"
    fi
    unset MATRIX_ENTERED
    # Programs behind links in /etc/alternatives are the root's too; what was installed by hand stays.
    mount --bind /usr/local "$root/usr/local"
    mount --bind "$root/etc/alternatives" /etc/alternatives
    mount --rbind "$root/usr" /usr
    PATH=/usr/bin:/usr/sbin:$PATH exec "$@"
}

mirror() {
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016  # apt's own variables
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
        awk -v release="$codename" '$2 == release && $3 == "main" && $1 ~ /^https?:/ { print $1; exit }'
}

# Builds a release's root where it is missing, or was made with other packages.
build() {
    release=$1 root=$roots/$1 packages=$(packages "$1")
    [ "$(cat "$root/made-with" 2> /dev/null)" != "$packages" ] || return 0
    mirror=$(mirror)
    [ -n "$mirror" ] || fail "apt's sources name no http mirror of this machine's own release"
    echo "$release: building target/matrix/$release, which takes a minute or two"
    rm -rf --one-file-system "$root" "$root.new"
    mkdir -p "$roots"
    eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
    [ -z "${http_proxy:-}" ] || export http_proxy
    # What debootstrap mounts ends with its namespace, also when it is interrupted.
    DPKG_FORCE=unsafe-io unshare --mount --propagation private \
        debootstrap --variant=minbase --include="$packages" "$release" "$root.new" "$mirror" > "$root.log" 2>&1 ||
        { tail -n 20 "$root.log" >&2; fail "debootstrap of $release failed"; }
    rm -rf "$root.new/var/cache/apt/archives" "$root.new/var/lib/apt/lists"
    echo "$packages" > "$root.new/made-with"
    mv "$root.new" "$root"
}

if [ "${1:-}" = enter ]; then
    shift
    enter "$@"
fi

[ "$(id -u)" = 0 ] || fail "needs root, for debootstrap and for the tests"
# The same for every version, and built before any of them lies over this machine's compiler.
target=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
result=0
for version in "$@"; do
    case $version in
        */*)
            echo "== $version: $("$version/containerd" --version)"
            PATH=$version:$PATH tests/run.sh -p jaunt-tests || result=1
            ;;
        *)
            build "$version"
            runner="$PWD/tests/matrix.sh enter $roots/$version"
            for program in containerd runc dockerd podman; do
                echo "== $version: $($runner "$program" --version | head -n 1)"
            done
            env "CARGO_TARGET_${target}_RUNNER=$runner" tests/run.sh -p jaunt-tests || result=1
            # Images of complete chains, as the tools of EROFS's authors read them.
            [ ! -e "$roots/$version/usr/bin/fsck.erofs" ] || env "CARGO_TARGET_${target}_RUNNER=$runner" \
                "${CARGO:-cargo}" test --locked -p jaunt-layerfs --test posix fsck:: -- --nocapture || result=1
            ;;
    esac
done
exit "$result"
