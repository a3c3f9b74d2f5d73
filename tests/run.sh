#!/bin/sh
# Runs the workspace's tests with cargo-nextest where it is installed, else with cargo test, and says
# at the end what was skipped: a test that cannot run prints a line that starts with "skipped: ".
# usage: run.sh [arguments of the test runner]
set -u

cargo=${CARGO:-cargo}
[ $# -gt 0 ] || set -- --workspace
result=0

if "$cargo" nextest --version > /dev/null 2>&1; then
    # Passing tests are silent; .config/nextest.toml has their output kept here.
    output=target/nextest/default/junit.xml
    rm -f "$output"
    "$cargo" nextest run --locked --no-fail-fast "$@" || result=$?
    "$cargo" test --locked --quiet --doc "$@" || result=$?
else
    output=target/test-output.log
    mkdir -p target
    { "$cargo" test --locked --no-fail-fast "$@" -- --nocapture 2>&1 || echo "$?" > "$output.failed"; } | tee "$output"
    if [ -e "$output.failed" ]; then
        result=$(cat "$output.failed")
        rm "$output.failed"
    fi
fi

skipped=$(grep -ho 'skipped: [^<]*' "$output" 2> /dev/null | sort | uniq -c)
if [ -n "$skipped" ]; then
    printf '\nNot everything ran, %d skipped:\n%s\n' "$(echo "$skipped" | awk '{ sum += $1 } END { print sum }')" "$skipped"
fi
exit "$result"
