#!/bin/sh
# Compares croze-rt with the installed crun and runc, the manager and its default network with podman's and dockerd's, and writes
# docs/benchmarks.md.
#
# Everything runs in a private mount namespace in which only one cgroup version is to be seen: crun refuses a host that shows
# version 1 and version 2 side by side, and writes into the empty directory that version 2 leaves when it is only unmounted. The engines run in a network namespace too, which takes dockerd's bridge and firewall rules
# with it. The bench programs are static, and the one for runtimes is small, because a child's peak memory begins with its parent's.
#
# PART=runtimes, PART=engines or PART=networks runs only that; ROUNDS, PULLS and DISK_PULLS say how often.
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

programs=$target_dir/$target/tiny
view=$(mktemp -d)
trap 'rmdir "$view"' EXIT

# apart FLAGS PROGRAM... : runs a program in namespaces of its own.
apart() {
    flags=$1
    shift
    # shellcheck disable=SC2086 # one word per flag
    unshare $flags --mount --propagation private sh -c '
        if grep -q " /sys/fs/cgroup/unified " /proc/self/mountinfo; then
            view=$1
            mount -t tmpfs -o mode=755 tmpfs "$view"
            for tree in /sys/fs/cgroup/*; do
                name=${tree##*/}
                if [ -L "$tree" ]; then
                    cp -P "$tree" "$view/"
                elif [ "$name" != unified ]; then
                    mkdir "$view/$name"
                    mount --bind "$tree" "$view/$name"
                fi
            done
            mount --move "$view" /sys/fs/cgroup
        fi
        shift
        if [ "$0" = --net ]; then
            ip link set lo up
        fi
        exec "$@"
    ' "$flags" "$view" "$@"
}

if [ "${PART:-runtimes}" = runtimes ]; then
    apart '' "$programs/croze-bench" --rounds "${ROUNDS:-60}" --croze-rt "$PWD/bin/croze-rt" --report docs/benchmarks.md
fi
if [ "${PART:-engines}" = engines ]; then
    apart --net "$programs/croze-bench-engines" --rounds "${ROUNDS:-30}" --pulls "${PULLS:-5}" --disk-pulls "${DISK_PULLS:-3}" \
        --report docs/benchmarks.md
fi
if [ "${PART:-networks}" = networks ]; then
    apart --net "$programs/croze-bench-engines" networks --rounds "${ROUNDS:-20}" --report docs/benchmarks.md
fi
echo 'bench: done; the figures are in docs/benchmarks.md, and nothing is left behind but the image in the tests'"'"' cache'
