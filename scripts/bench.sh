#!/bin/sh
# Compares croze-rt with crun and runc, the manager and its default network with podman's and dockerd's, and writes docs/benchmarks.md.
#
# The runtimes are the installed crun and runc and, beside them, the newer ones of Debian 13, which are downloaded with an apt
# configuration of their own and unpacked into a cache outside of the tree; nothing is installed.
#
# Everything runs in a private mount namespace in which only one cgroup version is to be seen: crun refuses a host that shows
# version 1 and version 2 side by side, and writes into the empty directory that version 2 leaves when it is only unmounted. The
# engines run in a network namespace too, which takes dockerd's bridge and firewall rules with it. The bench programs are static,
# and the one for runtimes is small, because a child's peak memory begins with its parent's.
#
# PART=runtimes, PART=engines or PART=networks runs only that; ROUNDS, CROWDS, PULLS and DISK_PULLS say how often.
# CROZE_TEST_CACHE is where the cache is (default /var/cache/croze-tests).
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
work=$(mktemp -d)
trap 'rmdir "$view" "$work"' EXIT

# Debian 13's crun and runc with the libraries that they are built for.
peers=${CROZE_TEST_CACHE:-/var/cache/croze-tests}/bench-peers
fetch_peers() {
    [ ! -e "$peers/complete" ] || return 0
    echo 'bench: downloading crun and runc of Debian 13'
    rm -rf "$peers"
    mkdir -p "$peers/apt/lists/partial" "$peers/apt/cache/archives/partial" "$peers/packages" "$peers/root"
    echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main' \
        >"$peers/apt/sources.list"
    cat >"$peers/apt/conf" <<CONF
Dir::State::lists "$peers/apt/lists";
Dir::State::status "/dev/null";
Dir::Cache "$peers/apt/cache";
Dir::Etc::sourcelist "$peers/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
CONF
    apt-get -qq -c "$peers/apt/conf" update
    (cd "$peers/packages" &&
        apt-get -qq -c "$peers/apt/conf" download crun runc libc6 libseccomp2 libcap2 libsystemd0 libyajl2)
    for package in "$peers/packages"/*.deb; do
        dpkg-deb -x "$package" "$peers/root"
    done
    rm -r "$peers/apt" "$peers/packages"
    touch "$peers/complete"
}

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

# with_peers VERSION TITLE: compares the runtimes where only this cgroup version is seen, a tmpfs is $TMPDIR, and the C library and
# what else crun and runc are linked to are those of Debian 13: older programs run with them as well.
with_peers() {
    # shellcheck disable=SC2016 # it is the inner shell that expands
    apart '' sh -c '
        version=$1 root=$2 TMPDIR=$3
        shift 3
        mount -t tmpfs -o mode=755 tmpfs "$TMPDIR"
        export TMPDIR
        if [ "$version" = 2 ]; then
            mount -t cgroup2 cgroup2 /sys/fs/cgroup
        fi
        libraries=lib/$(uname -m)-linux-gnu
        # Static, because the C library and its loader change one after the other.
        for name in ld-linux-x86-64.so.2 ld-linux-aarch64.so.1 libc.so.6 libm.so.6 libseccomp.so.2 libcap.so.2 libsystemd.so.0 libyajl.so.2; do
            new=$root/usr/$libraries/$name
            if [ -e "$new" ] && [ -e "/$libraries/$name" ]; then
                busybox mount --bind "$(busybox readlink -f "$new")" "$(busybox readlink -f "/$libraries/$name")"
            fi
        done
        exec "$@"
    ' sh "$1" "$peers/root" "$work" "$programs/croze-bench" --runtime "croze-rt=$PWD/bin/croze-rt" \
        --runtime "crun 1.21=$peers/root/usr/bin/crun" --runtime "runc 1.1.15=$peers/root/usr/sbin/runc" \
        --runtime "crun, installed=$(command -v crun)" --runtime "runc, installed=$(command -v runc)" \
        --reference 'crun 1.21' --rounds "${ROUNDS:-60}" --crowds "${CROWDS:-7}" --report docs/benchmarks.md --title "$2"
}

if [ "${PART:-runtimes}" = runtimes ]; then
    fetch_peers
    with_peers 1 'Low-level runtimes'
    with_peers 2 'Low-level runtimes, cgroup version 2'
fi
if [ "${PART:-engines}" = engines ]; then
    apart --net "$programs/croze-bench-engines" --rounds "${ROUNDS:-30}" --pulls "${PULLS:-5}" --disk-pulls "${DISK_PULLS:-3}" \
        --report docs/benchmarks.md
fi
if [ "${PART:-networks}" = networks ]; then
    apart --net "$programs/croze-bench-engines" networks --rounds "${ROUNDS:-20}" --report docs/benchmarks.md
fi
echo 'bench: done; the figures are in docs/benchmarks.md, and nothing is left behind but the image in the tests'"'"' cache'
