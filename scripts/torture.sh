#!/bin/sh
# Tortures the daemon at full length: kill -9 fifty times at random, 300 times in pulls and removals, and at every single step, full disks, damaged files; then 250,000 verdicts of
# random seccomp profiles beside libseccomp's, and 200 containers on the bridge. Needs root and the programs in bin/. CROZE_TORTURE_KILLS and CROZE_TORTURE_SEED choose how often and what is drawn; words after
# it go to nextest, and then only those tests are run.
set -eu

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
CROZE_TORTURE_KILLS=${CROZE_TORTURE_KILLS:-50}
CROZE_TORTURE_PULL_KILLS=${CROZE_TORTURE_PULL_KILLS:-300}
export PATH CROZE_TORTURE_KILLS CROZE_TORTURE_PULL_KILLS
if [ -n "${CROZE_TORTURE_SEED:-}" ]; then
    export CROZE_TORTURE_SEED
fi
"${CARGO:-cargo}" nextest run --locked --profile torture -p croze-integration-tests --test torture "$@"
[ "$#" -gt 0 ] && exit
CROZE_TEST_SECCOMP_PROFILES=${CROZE_TEST_SECCOMP_PROFILES:-1000} "${CARGO:-cargo}" nextest run --locked --profile torture \
    -p croze-integration-tests --test seccomp -E 'test(random)'
CROZE_TEST_BRIDGE_CONTAINERS=${CROZE_TEST_BRIDGE_CONTAINERS:-200} "${CARGO:-cargo}" nextest run --locked --profile torture \
    -p croze-integration-tests --test network -E 'test(many)'
scripts/fuzz.sh
# Twenty power cuts in the virtual machine, a quarter of an hour; CROZE_VM_CUTS=0 leaves them out.
if [ "${CROZE_VM_CUTS:-20}" = 0 ] || ! command -v qemu-system-x86_64 >/dev/null; then
    echo "torture: no power cuts: CROZE_VM_CUTS is 0, or QEMU is missing (make setup-vm)" >&2
else
    integration-tests/vm/power-cuts.sh
fi
