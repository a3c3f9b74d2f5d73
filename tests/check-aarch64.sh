#!/bin/sh
# Checks that everything compiles for aarch64, tests and benches included. Nothing is linked, and nothing run.
#
# The C that some crates bring is compiled by Debian's cross compiler, and the standard library comes from rustup; once both
# are there, no network is needed.
# usage: check-aarch64.sh
set -eu

target=aarch64-unknown-linux-gnu
tests/deps.sh aarch64
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    if ! command -v rustup > /dev/null; then
        echo "check-aarch64.sh: this Rust has no standard library for $target, and there is no rustup to add it" >&2
        exit 1
    fi
    rustup target add "$target"
fi
exec "${CARGO:-cargo}" check --locked --workspace --all-targets --target "$target"
