#!/bin/sh
# Runs the tests. Usage: test.sh all|unit
#
# `all` needs root and the programs in bin/. Each test cleans up after itself and fails if it cannot; in the end the whole
# run is compared once more, from outside: mounts, cgroups, interfaces, scratch directories.
set -eu

cargo=${CARGO:-cargo}
# Debian keeps daemons and mount tools in sbin.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

# Tests that stand beside the code and need root and built programs are marked as ignored there; `all` runs them too.
case ${1:-} in
    all)
        selection=--workspace
        nextest_flags='--run-ignored all'
        libtest_flags=--include-ignored
        export CROZE_TEST_SHIM="$PWD/bin/croze-shim" CROZE_TEST_RUNTIME="${RUNTIME:-$PWD/bin/croze-rt}"
        ;;
    unit)
        selection='--workspace --exclude croze-integration-tests'
        nextest_flags=
        libtest_flags=
        ;;
    *)
        echo 'usage: test.sh all|unit' >&2
        exit 2
        ;;
esac

run_tests() {
    # CROZE_TEST_RUNNER=cargo takes the second way even where the first is there.
    if [ "${CROZE_TEST_RUNNER:-nextest}" = nextest ] && command -v cargo-nextest >/dev/null 2>&1; then
        # shellcheck disable=SC2086 # one word per flag
        "$cargo" nextest run --locked $selection $nextest_flags
        return
    fi
    # One thread: the harness looks after all children of its process, so two tests must not share one at a time.
    log=$(mktemp)
    # shellcheck disable=SC2086 # one word per flag
    if "$cargo" test --locked --no-fail-fast $selection -- --test-threads=1 $libtest_flags >"$log" 2>&1; then code=0; else code=$?; fi
    cat "$log"
    awk '/^test result:/ { passed += $4; failed += $6 } END { printf "%d passed, %d failed\n", passed, failed }' "$log"
    rm -f "$log"
    return "$code"
}

# What the suites could leave, by the names that they and the engines they start use. Others on the host may add and remove
# things of their own meanwhile.
host_state() {
    cut -d' ' -f5 /proc/self/mountinfo | grep -F croze | sed 's/^/mount /'
    find /sys/fs/cgroup -type d | grep -E 'croze|docker|libpod|[0-9a-f]{64}' | sed 's/^/cgroup /'
    find /sys/class/net -mindepth 1 | sed 's/^/interface /'
    find /tmp /run /var/lib -maxdepth 1 -name '*croze*' | sed 's/^/directory /'
}

before=$(mktemp)
after=$(mktemp)
trap 'rm -f "$before" "$after"' EXIT
host_state | sort >"$before"
if run_tests; then code=0; else code=$?; fi
# podman calls the runtime with its default root, which stays, empty, as runc's does. One that is not empty is a leftover.
grep -qx 'directory /run/croze-rt' "$before" || rmdir /run/croze-rt 2>/dev/null || true
host_state | sort >"$after"
left=$(comm -13 "$before" "$after")
if [ -n "$left" ] && [ -n "${CROZE_TEST_SHARED_HOST:-}" ]; then
    printf 'test: new on the host (others work on it, so this is no failure):\n%s\n' "$left" >&2
elif [ -n "$left" ]; then
    printf 'test: FAILED: this is left on the host:\n%s\n' "$left" >&2
    code=1
fi
exit "$code"
