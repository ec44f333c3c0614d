#!/bin/sh
# Tortures the daemon at full length: kill -9 fifty times at random and at every single step, full disks, damaged files; then 250,000 verdicts of
# random seccomp profiles beside libseccomp's, and 200 containers on the bridge. Needs root and the programs in bin/. CROZE_TORTURE_KILLS and CROZE_TORTURE_SEED choose how often and what is drawn; words after
# it go to nextest, and then only those tests are run.
set -eu

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
CROZE_TORTURE_KILLS=${CROZE_TORTURE_KILLS:-50}
export PATH CROZE_TORTURE_KILLS
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
