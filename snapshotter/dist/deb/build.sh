#!/bin/sh
# Builds the Debian package `jaunt`: both programs, the systemd unit, the commented configuration, completions and the manual.
#
# The programs use this machine's C library, which the package asks for: build on the oldest release that is to have it.
# usage: build.sh PROGRAMS_DIRECTORY OUTPUT_DIRECTORY, from the repository's root; prints the package's path
set -eu

[ $# = 2 ] || { sed -n 's/^# usage: //p' "$0" >&2; exit 2; }
programs=$1 output=$2
here=$(dirname "$0")
dist=$here/..
top=$dist/../..

version=$(sed -n '/^\[workspace.package\]/,/^\[workspace.dep/s/^version = "\(.*\)"/\1/p' "$top/Cargo.toml")
architecture=$(dpkg --print-architecture)
libc=$(dpkg-query --show --showformat '${Version}' libc6 | sed 's/-.*//')
package=$output/jaunt_${version}_$architecture.deb

umask 022
mkdir -p "$output"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
# mktemp's own directory is nobody else's, and it becomes the package's root.
chmod 755 "$tree"

for program in jaunt-snapshotter jaunt-proxy; do
    install -D -m 755 "$programs/$program" "$tree/usr/bin/$program"
    if command -v strip > /dev/null; then
        strip "$tree/usr/bin/$program"
    fi
done
"$programs/jaunt-snapshotter" completions bash |
    install -D -m 644 /dev/stdin "$tree/usr/share/bash-completion/completions/jaunt-snapshotter"
mkdir -p "$tree/usr/lib/systemd/system"
sed 's|/usr/local/bin/|/usr/bin/|' "$dist/systemd/jaunt-snapshotter.service" \
    > "$tree/usr/lib/systemd/system/jaunt-snapshotter.service"
install -D -m 644 "$dist/snapshotter.toml" "$tree/etc/jaunt/snapshotter.toml"
documents=$tree/usr/share/doc/jaunt
mkdir -p "$documents"
cp "$top/README.md" "$top/CHANGELOG.md" "$top/doc/OPERATIONS.md" "$top/doc/SEMANTICS.md" "$top/doc/nginx-cache.conf" \
    "$dist/kubernetes/daemonset.yaml" "$documents"
cp "$top/LICENSE" "$documents/copyright"
chmod 644 "$documents"/*

mkdir "$tree/DEBIAN"
echo /etc/jaunt/snapshotter.toml > "$tree/DEBIAN/conffiles"
for script in preinst postinst prerm postrm; do
    install -m 755 "$here/$script" "$tree/DEBIAN/$script"
done
cat > "$tree/DEBIAN/control" << CONTROL
Package: jaunt
Version: $version
Architecture: $architecture
Maintainer: Jaunt's maintainers <root@localhost>
Installed-Size: $(du -sk --exclude=DEBIAN "$tree" | cut -f 1)
Depends: libc6 (>= $libc), libgcc-s1
Recommends: containerd | containerd.io
Section: admin
Priority: optional
Description: starts containers before their image has arrived
 jaunt-snapshotter is a containerd remote snapshotter: it mounts images that
 were converted in their registry, and fetches, verifies and decodes only what
 programs touch. jaunt-proxy converts them. An image that was not converted is
 unpacked as with overlayfs.
CONTROL
dpkg-deb --root-owner-group --build "$tree" "$package" > /dev/null
echo "$package"
