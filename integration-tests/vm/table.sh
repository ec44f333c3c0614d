#!/usr/bin/env bash
# Judges croze-rt, runc and crun by our own table of cases in the guest, and writes the results into docs/conformance.md beside the host's.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: table.sh [--kernel NAME] [WORD...]

Runs croze-conformance in the guest with the programs in bin/: croze-rt, then the guest's own runc and crun. With words only the cases whose
names contain one of them, and nothing is written.

  --kernel NAME   trixie (6.12, the default) or bookworm (6.1)
  --help          this text

  CROZE_BIN           where the programs are, instead of bin/
  CROZE_VM_TOTAL      how long all of it may take, in seconds (default 5400)
  CROZE_TEST_VM       where the guest is kept (default /var/cache/croze-tests/vm)
USAGE
}

here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$here/../.." && pwd)
cargo=${CARGO:-cargo}
bin=${CROZE_BIN:-$tree/bin}
kernel=trixie words=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --kernel) kernel=${2:?--kernel needs a name}; shift ;;
        *) words+=("$1") ;;
    esac
    shift
done

"$here/build.sh"
share=$(mktemp -d)
trap 'rm -rf "$share"' EXIT
"$cargo" build --quiet --locked --manifest-path "$tree/Cargo.toml" --package croze-conformance
target=$("$cargo" metadata --format-version 1 --no-deps --manifest-path "$tree/Cargo.toml" |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
strip --strip-debug -o "$share/croze-conformance" "$target/debug/croze-conformance"
cp "$bin"/croze-{rt,probe} "$share/"

# Each runtime's lines go to the shared directory as they come: what a guest that is stopped has not reached is then known.
"$here/run.sh" --share "$share" --kernel "$kernel" --seconds "${CROZE_VM_TOTAL:-5400}" --memory 3072 -- "
    mkdir /tmp/croze && cp /host/croze-* /tmp/croze && export CROZE_BIN=/tmp/croze
    # systemd mounts /tmp without devices, which containers' root directories are to have.
    mount -o remount,dev,suid,size=2g /tmp && export CROZE_TEST_PATIENCE=4
    for runtime in croze-rt:/tmp/croze/croze-rt runc:/usr/sbin/runc crun:/usr/bin/crun; do
        export RUNTIME=\${runtime#*:}
        \"\$RUNTIME\" --version | head -n 1 >/host/version.\${runtime%%:*}
        /tmp/croze/croze-conformance ${words[*]@Q} >/host/results.\${runtime%%:*}
        echo \"\${runtime%%:*}: \$(grep -c ^ok /host/results.\${runtime%%:*}) ok, \$(grep -c ^FAIL /host/results.\${runtime%%:*}) not ok\"
        grep ^FAIL /host/results.\${runtime%%:*}
    done
    true"
[ "${#words[@]}" = 0 ] || exit 0
exec python3 "$tree/scripts/conformance/table.py" "$tree/docs/conformance.md" ours-vm "$share"/results.{croze-rt,runc,crun}
