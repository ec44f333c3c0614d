#!/bin/sh
# Tortures the daemon at full length: kill -9 fifty times at random and at every single step, full disks, damaged files. Needs root and the
# programs in bin/. CROZE_TORTURE_KILLS and CROZE_TORTURE_SEED choose how often and which run; words after it go to nextest.
set -eu

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
CROZE_TORTURE_KILLS=${CROZE_TORTURE_KILLS:-50}
export PATH CROZE_TORTURE_KILLS
if [ -n "${CROZE_TORTURE_SEED:-}" ]; then
    export CROZE_TORTURE_SEED
fi
"${CARGO:-cargo}" nextest run --locked --profile torture -p croze-integration-tests --test torture "$@"
