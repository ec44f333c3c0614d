#!/bin/sh
# Installs what is missing, and only that. Usage: setup.sh build|tests|vm
#
# It installs Debian packages and the musl target of an existing Rust toolchain. It never installs a toolchain: where it
# should come from is the user's choice.
set -eu

say() { printf '%s: %s\n' "$name" "$*"; }
die() { printf '%s: %s\n' "$name" "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Debian keeps daemons and mount tools in sbin, which is not in every user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# install_packages PROGRAM=PACKAGE... : installs the packages of those programs (or files) that are not there.
install_packages() {
    missing=
    for pair in "$@"; do
        program=${pair%%=*}
        case $program in
            /*) [ -e "$program" ] || missing="$missing ${pair#*=}" ;;
            *) have "$program" || missing="$missing ${pair#*=}" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    have apt-get || die "missing:$missing. This is no Debian; install them with your package manager and run this again"
    [ "$(id -u)" = 0 ] || die "missing:$missing. Run this as root, or: sudo apt-get install --no-install-recommends$missing"
    say "installing$missing"
    apt-get update -qq >/dev/null || say "apt-get update failed; trying with the lists that are there"
    # shellcheck disable=SC2086 # one word per package
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
        die "apt-get could not install$missing"
}

# The oldest compiler that will do, from the workspace's manifest.
wanted_rust() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

check_toolchain() {
    wanted=$(wanted_rust)
    if ! have "${CARGO:-cargo}" && [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER:-}" ]; then
        # sudo takes PATH and HOME away, by which rustup's programs are found.
        die "root has no Rust toolchain, and that of $SUDO_USER is not seen through sudo. Build as $SUDO_USER: make build; what needs root
       is then: sudo scripts/quickstart.sh, sudo scripts/install.sh install"
    fi
    have "${CARGO:-cargo}" || die "no Rust toolchain found. Croze needs Rust $wanted or newer; https://rustup.rs tells how
       to get it (Debian 12's own rustc is too old). Then run this again"
    found=$(rustc --version | cut -d' ' -f2)
    lowest=$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n1)
    [ "$lowest" = "$wanted" ] || die "rustc $found is too old: Croze needs $wanted or newer (\`rustup update\` gets it)"
    for part in clippy:cargo-clippy rustfmt:rustfmt; do
        have "${part#*:}" || ! have rustup || rustup component add "${part%:*}" >/dev/null 2>&1 || true
    done
}

# The static programs are built for musl where that can be had; scripts/build.sh falls back to static glibc.
add_musl() {
    have rustup || return 0
    target=$(uname -m)-unknown-linux-musl
    rustup target list --installed 2>/dev/null | grep -qx "$target" && return 0
    rustup target add "$target" >/dev/null 2>&1 ||
        say "the target $target cannot be had here; the static programs will use static glibc"
}

case ${1:-} in
    build)
        name=setup
        install_packages gcc=gcc make=make ld=binutils pkg-config=pkg-config ip=iproute2 nsenter=util-linux /etc/ssl/certs/ca-certificates.crt=ca-certificates \
            /usr/include/stdio.h=libc6-dev
        check_toolchain
        add_musl
        say "all that building needs is there ($(rustc --version | cut -d' ' -f1,2))"
        ;;
    tests)
        name=setup-tests
        install_packages podman=podman dockerd=docker.io docker=docker.io ctr=containerd runc=runc crun=crun skopeo=skopeo umoci=umoci buildah=buildah \
            docker-registry=docker-registry openssl=openssl debootstrap=debootstrap busybox=busybox-static iptables=iptables ip=iproute2 \
            tmux=tmux curl=curl igzip=isal unshare=util-linux jq=jq strace=strace cc=gcc /usr/include/seccomp.h=libseccomp-dev \
            /usr/share/containers/seccomp.json=golang-github-containers-common
        if ! have cargo-nextest; then
            say "building cargo-nextest, the test runner (once, some minutes)"
            "${CARGO:-cargo}" install cargo-nextest --locked --quiet ||
                say "cargo-nextest cannot be had; the tests will run under cargo test, one after the other"
        fi
        say "all that the tests need is there"
        ;;
    vm)
        name=setup-vm
        install_packages qemu-system-x86_64=qemu-system-x86 debootstrap=debootstrap mke2fs=e2fsprogs depmod=kmod cpio=cpio xz=xz-utils \
            busybox=busybox-static strip=binutils \
            /usr/share/keyrings/debian-archive-keyring.gpg=debian-archive-keyring
        say "all that the virtual machine needs is there"
        ;;
    *)
        name=setup
        die "usage: setup.sh build|tests|vm"
        ;;
esac
