#!/usr/bin/env bash
# Runs test programs of ours in the guest: what `make test-vm` does.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: suite.sh [--kernel NAME] [--power-cut] [FILTER...]

Runs, in the guest, the tests of croze-cgroups and croze-snapshots and the suite `runtime` with the programs in bin/, and the whole daemon with limits of
containers' file systems on ext4 and xfs (storage.py), after making the guest if it is not there. A filter is a part of tests' names; --skip NAME
leaves tests out; with one storage.py is not run, and with the filter `storage.py` nothing else is.

  --kernel NAME   trixie (6.12, the default) or bookworm (6.1)
  --power-cut     only check the harness itself: a disk that is kept across a power cut
  --help          this text

  RUNTIME             the guest's path of another runtime to judge: /usr/sbin/runc, /usr/bin/crun
  CROZE_BIN           where the programs are, instead of bin/
  CROZE_VM_SUITES     which suites of integration-tests (default: runtime)
  CROZE_VM_JOBS       how many tests at a time (default 2)
  CROZE_VM_SECONDS    how long one test may take (default 400)
  CROZE_VM_TOTAL      how long all of it may take (default 3600)
  CROZE_TEST_VM       where the guest is kept (default /var/cache/croze-tests/vm)
USAGE
}

say() { printf 'vm: %s\n' "$*" >&2; }
here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$here/../.." && pwd)
cargo=${CARGO:-cargo}
bin=${CROZE_BIN:-$tree/bin}
kernel=trixie power_cut='' filters=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --kernel) kernel=${2:?--kernel needs a name}; shift ;;
        --power-cut) power_cut=1 ;;
        *) filters+=("$1") ;;
    esac
    shift
done

"$here/build.sh"
share=$(mktemp -d)
trap 'rm -rf "$share"' EXIT

# What was synced is there after a power cut; what was not may be gone, and the file system is whole. Two boots.
check_power_cut() {
    local disk=$share/disk
    "$here/run.sh" --share "$share" --disk "$disk" --kernel "$kernel" --power-cut -- '
        mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && echo synced >/mnt/synced && sync -f /mnt
        mount -o remount,commit=300 /mnt && echo lost >/mnt/lost
        power-cut' || return
    "$here/run.sh" --share "$share" --disk "$disk" --kernel "$kernel" -- '
        mount /dev/vdb /mnt && cat /mnt/synced && [ "$(cat /mnt/synced)" = synced ] && ! grep -qs lost /mnt/lost &&
            umount /mnt && e2fsck -fn /dev/vdb >/dev/null && echo "the power cut lost what was not synced, and nothing else"'
}

if [ -n "$power_cut" ]; then
    check_power_cut
    exit
fi

# program ARGUMENTS...: builds a test program and copies it, without what only a debugger reads.
program() {
    local name=$1 built
    shift
    built=$("$cargo" test --locked --no-run --message-format=json "$@" 2>"$share/build.log" |
        sed -nE 's/.*"executable":"([^"]+)".*/\1/p' | tail -n 1)
    [ -n "$built" ] || { cat "$share/build.log" >&2; say "$name could not be built"; exit 1; }
    strip --strip-debug -o "$share/tests/$name" "$built"
}

mkdir "$share/bin" "$share/tests"
cp "$bin"/croze{,d,-rt,-probe,-init,-shim} "$share/bin/"
cp "$here/storage.py" "$share/"
suites=${CROZE_VM_SUITES:-runtime}
for suite in $suites; do program "$suite" --package croze-integration-tests --test "$suite"; done
program cgroups-host --package croze-cgroups --test host
# Its mounts are made in three ways, by the kernel's age.
program snapshots --package croze-snapshots --lib
[ ! -e /usr/share/containers/seccomp.json ] || cp /usr/share/containers/seccomp.json "$share/"
say "booting; the tests run 8 to 20 times slower than outside"

"$here/run.sh" --share "$share" --kernel "$kernel" --seconds "${CROZE_VM_TOTAL:-3600}" --memory 3072 -- "
    cp -a /host /tmp/croze && export CROZE_BIN=/tmp/croze/bin RUNTIME=${RUNTIME:-/tmp/croze/bin/croze-rt}
    # systemd mounts /tmp without devices, which containers' root directories are to have.
    mount -o remount,dev,suid,size=2g /tmp && export CROZE_TEST_PATIENCE=4
    mkdir -p /usr/share/containers && cp /tmp/croze/seccomp.json /usr/share/containers/ 2>/dev/null
    uname -r && stat -fc 'cgroups: %T' /sys/fs/cgroup && systemctl --version | head -n 1 && \"\$RUNTIME\" --version | head -n 1
    failed=0
    for program in /tmp/croze/tests/*; do
        echo; echo \"== \$(basename \$program)\"
        # Before Linux 6.6 a tmpfs has no attributes of users, before 6.3 no id-mapped mounts.
        case \$program:\$(uname -r) in */snapshots:* | *:6.1.*) export TMPDIR=/var/tmp CROZE_TEST_SCRATCH=/var/tmp ;; *) unset TMPDIR CROZE_TEST_SCRATCH ;; esac
        run-tests \$program ${CROZE_VM_JOBS:-2} ${CROZE_VM_SECONDS:-400} ${filters[*]@Q} || failed=1
    done
    case '${filters[*]}' in '' | storage.py)
        echo; echo '== storage.py'; TMPDIR=/var/tmp python3 /tmp/croze/storage.py /tmp/croze/bin || failed=1 ;;
    esac
    exit \$failed"
