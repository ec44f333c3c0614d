#!/usr/bin/env bash
# Cuts the guest's power in the middle of pulls and removals, again and again, on a disk that is kept.
#
#   boot ──► verify what the cut before has left ──► pulls and removals, two at a time ──► sysrq b at a random moment ──► boot …
#
# The last boot only verifies. power-cuts.py says what must hold. Takes half a minute for each cut on an idle host.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: power-cuts.sh [--kernel NAME]

  --kernel NAME    trixie (6.12, the default) or bookworm (6.1)
  --help           this text

  CROZE_VM_CUTS         how many cuts (default 20)
  CROZE_TORTURE_SEED    when they come and what is pulled; printed
  CROZE_BIN             where the programs are, instead of bin/
  CROZE_TEST_VM         where the guest is kept (default /var/cache/croze-tests/vm)
USAGE
}

say() { printf 'vm: %s\n' "$*" >&2; }
here=$(cd "$(dirname "$0")" && pwd)
bin=${CROZE_BIN:-$here/../../bin}
kernel=trixie
while [ $# -gt 0 ]; do
    case $1 in
        --kernel) kernel=${2:?--kernel needs a name}; shift ;;
        --help | -h) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
cuts=${CROZE_VM_CUTS:-20}
seed=${CROZE_TORTURE_SEED:-$((RANDOM + 1))}

"$here/build.sh"
share=$(mktemp -d)
trap 'rm -rf "$share"' EXIT
mkdir "$share/bin"
cp "$bin"/croze{,d,-rt,-shim,-init} "$share/bin/"
cp "$here/power-cuts.py" "$share/"
python3 "$share/power-cuts.py" make "$share/registry"
say "$cuts power cuts, CROZE_TORTURE_SEED=$seed"

# boot WORDS OPTION...: one boot; its output is shown and kept.
boot() {
    local words=$1
    shift
    "$here/run.sh" --share "$share" --disk "$share/disk" --kernel "$kernel" --seconds 900 "$@" -- "
        cp -a /host/bin /host/registry /host/power-cuts.py /tmp && cd /tmp
        python3 /tmp/power-cuts.py guest /tmp/registry /tmp/bin ${words@Q}" >"$share/output" || return
}

for ((cut = 1; cut <= cuts + 1; cut++)); do
    option=--power-cut last=()
    [ "$cut" -le "$cuts" ] || { option='' last=(last); }
    words=$(python3 "$share/power-cuts.py" draw "$share/state" "$seed" "${last[@]}")
    code=0
    boot "$words" $option || code=$?
    if [ "$code" != 0 ]; then
        cat "$share/output"
        say "FAILED at boot $cut with $code (again with CROZE_TORTURE_SEED=$seed CROZE_VM_CUTS=$cuts)"
        exit 1
    fi
    python3 "$share/power-cuts.py" learn "$share/state" "$share/output"
    say "$cut: $(grep -a '^verified' "$share/output"); $(grep -ac '^begin' "$share/output" || true) requests, $(grep -ac '^done' "$share/output" || true) answered before the cut"
done
say "$cuts power cuts: nothing acknowledged was lost, every named layer is what its diff id says"
