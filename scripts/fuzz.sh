#!/bin/sh
# Random input for everything that comes from a registry: references, manifests, challenges, archives. Needs root, for what archives become on a
# disk. CROZE_FUZZ_SECONDS says how long each of the targets is attacked (60), CROZE_FUZZ_SEED what is drawn; words after it go to nextest.
set -eu

CROZE_FUZZ_SECONDS=${CROZE_FUZZ_SECONDS:-60}
export CROZE_FUZZ_SECONDS
if [ -n "${CROZE_FUZZ_SEED:-}" ]; then
    export CROZE_FUZZ_SEED
fi
exec "${CARGO:-cargo}" nextest run --locked --profile torture -p croze-model -p croze-registry -p croze-layers -E 'test(/(^|::)fuzz_/)' "$@"
