#!/bin/sh
# Compares croze-rt with the installed crun and runc, and writes docs/benchmarks.md.
#
# Everything runs in a private mount namespace in which only one cgroup version is to be seen: crun refuses a host that shows
# version 1 and version 2 side by side. The bench program is static and small, because a child's peak memory begins with its
# parent's.
set -eu

cargo=${CARGO:-cargo}
target_dir=$("$cargo" metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
machine=$(uname -m)

if [ "$(id -u)" -ne 0 ]; then
    echo 'bench: needs root' >&2
    exit 1
fi
if [ -d "$(rustc --print sysroot)/lib/rustlib/$machine-unknown-linux-musl/lib" ]; then
    target=$machine-unknown-linux-musl
    static_flags=
else
    target=$machine-unknown-linux-gnu
    static_flags=-Ctarget-feature=+crt-static
fi

RUSTFLAGS="${RUSTFLAGS:-} $static_flags -Crelocation-model=static" \
    "$cargo" build --quiet --locked --profile tiny --target "$target" --package croze-bench

exec unshare --mount --propagation private sh -c '
    if grep -q " /sys/fs/cgroup/unified " /proc/self/mountinfo; then
        umount /sys/fs/cgroup/unified
    fi
    exec "$@"
' sh "$target_dir/$target/tiny/croze-bench" --rounds "${ROUNDS:-60}" --croze-rt "$PWD/bin/croze-rt" --report docs/benchmarks.md
