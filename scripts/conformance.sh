#!/usr/bin/env bash
# Runs crun's own Python tests against croze-rt, runc and crun, and prints one table.
#
# The tests come from Debian's source package of crun, fetched with an apt configuration of their own into a cache outside of
# the tree, and are never copied into it. Results are "ok", "skip", "FAIL" or "-" (the file ended before its turn).
#
#   CROZE_TEST_CACHE   where the tests are kept (default /var/cache/croze-tests)
set -euo pipefail

tree=$(cd "$(dirname "$0")/.." && pwd)
cache=${CROZE_TEST_CACHE:-/var/cache/croze-tests}/conformance
tests=$cache/crun
mkdir -p "$cache"
work=$(mktemp -d)
trap 'rm -rf "$work" "$tests"/.testsuite-run-*' EXIT

fetch() {
    local apt=$cache/apt
    mkdir -p "$apt/lists/partial" "$apt/state" "$apt/cache/archives/partial" "$apt/src"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" \
        >"$apt/sources.list"
    cat >"$apt/conf" <<CONF
Dir::State "$apt/state";
Dir::State::lists "$apt/lists";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "root";
CONF
    apt-get -q -c "$apt/conf" update
    # A mirror may lack the packaging files: only the authors' archive is needed, and apt keeps it only if its checksum is right.
    (cd "$apt/src" && apt-get -q -c ../conf source --download-only crun) || true
    local archive
    archive=$(find "$apt/src" -name 'crun_*.orig.tar.*' ! -name '*.asc' | sort | tail -n 1)
    [ -n "$archive" ] || { echo "conformance: the source package of crun could not be had from the mirror" >&2; exit 1; }
    mkdir -p "$tests.new"
    tar -xf "$archive" -C "$tests.new" --strip-components=1
    printf '#define HAVE_LINUX_IOPRIO_H 1\n#define HAVE_SECCOMP 1\n' >"$tests.new/tests/config.h"
    gcc -O1 -static -I"$tests.new/tests" -o "$tests.new/tests/init" "$tests.new/tests/init.c"
    mv "$tests.new" "$tests"
}

# runc has neither of the flags that these tests always give.
cat >"$work/runc" <<'WRAPPER'
#!/usr/bin/env bash
words=()
while [ $# -gt 0 ]; do
    case $1 in
        --cgroup-manager | --config) shift 2 ;;
        *) words+=("$1"); shift ;;
    esac
done
exec runc "${words[@]}"
WRAPPER
chmod +x "$work/runc"

# suite NAME PROGRAM: one line "FILE.TEST<tab>RESULT" for each test.
suite() {
    local file
    cd "$tests"
    for file in tests/test_*.py; do
        OCI_RUNTIME=$2 INIT=$tests/tests/init timeout 60 python3 "$file" </dev/null 2>/dev/null |
            sed -nE "s,^ok [0-9]+ - (.*) #SKIP,$(basename "$file" .py).\1\tskip,p;t
                     s,^ok [0-9]+ - (.*),$(basename "$file" .py).\1\tok,p
                     s,^not ok [0-9]+ - (.*),$(basename "$file" .py).\1\tFAIL,p" || true
    done >"$work/$1.results"
    # One of the tests freezes its process in a cgroup of its own, and leaves it there if it fails.
    local frozen=/sys/fs/cgroup/freezer/frozen
    if [ -d $frozen ]; then
        while read -r pid; do kill -KILL "$pid"; done <$frozen/tasks || true
        echo THAWED >$frozen/freezer.state
        until rmdir $frozen 2>/dev/null || [ ! -d $frozen ]; do read -rt 0.1 <> <(:) || true; done
    fi
    # Empty cgroups by the tests' names, which other runtimes leave behind.
    find /sys/fs/cgroup -depth -type d -name 'test-tmp*' -exec rmdir {} + 2>/dev/null || true
}

[ -x "$tests/tests/init" ] || fetch
(suite croze-rt "$tree/bin/croze-rt")
(suite runc "$work/runc")
# crun refuses a hybrid host: it gets a view of version 1 alone.
export -f suite
export tests work
unshare -m --propagation private bash -c \
    'set -euo pipefail; umount /sys/fs/cgroup/unified 2>/dev/null || true; suite crun "$(command -v crun)"'

awk -F'\t' -v OFS='\t' '
    FNR == 1 { column++ }
    { result[$1, column] = $2; if (!seen[$1]++) order[++count] = $1 }
    END {
        printf "%-60s %-9s %-9s %s\n", "test", "croze-rt", "runc", "crun"
        for (i = 1; i <= count; i++) {
            line = sprintf("%-60s", order[i])
            for (c = 1; c <= 3; c++) {
                r = ((order[i], c) in result) ? result[order[i], c] : "-"
                total[c, r]++
                line = line sprintf(" %-9s", r)
            }
            sub(/ +$/, "", line)
            print line
        }
        for (c = 1; c <= 3; c++)
            printf "%s: %d ok, %d skipped, %d not ok\n", (c == 1 ? "croze-rt" : c == 2 ? "runc" : "crun"),
                total[c, "ok"], total[c, "skip"], total[c, "FAIL"] + total[c, "-"]
    }' "$work/croze-rt.results" "$work/runc.results" "$work/crun.results"
