#!/usr/bin/env bash
# Runs suites against croze-rt, runc and crun and writes their results, one table each, into docs/conformance.md:
#
#   ours         our own table of cases (integration-tests/conformance)
#   crun         crun's Python tests, all files
#   validation   runtime-tools' validation programs, down to single TAP assertions
#
# Usage: conformance.sh [SUITE…]     without names: all
#
# What others made comes from Debian's packages and source packages (conformance/fetch.sh) and is never copied into the tree.
#
#   CROZE_TEST_CACHE   where it is kept (default /var/cache/croze-tests)
#   CROZE_TEST_MIRROR  the Debian mirror it comes from
set -euo pipefail

tree=$(cd "$(dirname "$0")/.." && pwd)
cache=${CROZE_TEST_CACHE:-/var/cache/croze-tests}/conformance
# Debian keeps mount tools in sbin.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
mkdir -p "$cache"
work=$(mktemp -d /tmp/croze-conformance-XXXXXX)
# A root in a user namespace is nobody outside, and has to reach its bundle.
chmod 0711 "$work"
trap 'rm -rf --one-file-system "$work" "$cache"/crun/.testsuite-run-*' EXIT

# shellcheck source-path=SCRIPTDIR/conformance
. "$tree/scripts/conformance/fetch.sh"
. "$tree/scripts/conformance/suites.sh"

suites=${*:-ours crun validation}
# Kept beside the programs, for whoever runs it by itself or in a virtual machine.
"${CARGO:-cargo}" build --quiet --locked --manifest-path "$tree/Cargo.toml" --package croze-conformance
target=$("${CARGO:-cargo}" metadata --format-version 1 --no-deps --manifest-path "$tree/Cargo.toml" |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
install -m 0755 "$target/debug/croze-conformance" "$tree/bin/croze-conformance"
case " $suites " in *" crun "* | *" validation "*) fetch ;; esac
[ -d "$cache/peers" ] || fetch

# One column each: name, program, view. crun refuses a host with cgroup versions 1 and 2 side by side, so it sees version 1 alone there.
runtimes="croze-rt:$tree/bin/croze-rt:host runc:$cache/peers/runc:host crun:$cache/peers/crun:one-version"
export tree cache work
code=0
for suite in $suites; do
    for runtime in $runtimes; do
        IFS=: read -r name program view <<<"$runtime"
        echo "conformance: $suite with $name" >&2
        in_view "$view" "run_${suite}" "$name" "$program" >"$work/$suite.$name"
    done
    python3 "$tree/scripts/conformance/table.py" "$tree/docs/conformance.md" "$suite" \
        "$work/$suite.croze-rt" "$work/$suite.runc" "$work/$suite.crun" || code=1
done
python3 "$tree/scripts/conformance/table.py" "$tree/docs/conformance.md" --versions \
    "croze-rt: $("$tree/bin/croze-rt" --version | head -n 1)" "runc: $("$cache/peers/runc" --version | head -n 1)" \
    "crun: $("$cache/peers/crun" --version | head -n 1)"
exit $code
