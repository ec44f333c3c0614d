#!/usr/bin/env bash
# Makes the guest that run.sh boots: a Debian root file system and two kernels, from Debian's packages alone.
#
#   $CROZE_TEST_VM, else /var/cache/croze-tests/vm/
#     lock             held while something is made
#     debs/            packages as debootstrap fetched them: a second attempt does not fetch them again
#     apt/             an apt configuration of our own; the host's is neither read nor changed
#     base.tar         stage 1: the root file system as debootstrap leaves it
#     kernel-<suite>/  stage 2: version, vmlinuz, initrd.gz, modules.tar; one for each kernel
#     root.img         stage 3: stage 1, the modules of all kernels and guest/, as one ext4 file system
#
# Each stage is made under another name and renamed, and has a stamp of what it was made from: what is finished is kept after an
# interruption, and what is out of date is made again.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: build.sh [--fresh]

Makes the guest for the tests in a virtual machine; does nothing if it is there. Needs root and some minutes.

  --fresh   make everything anew, packages included
  --help    this text

  CROZE_TEST_VM      where the guest is kept (default /var/cache/croze-tests/vm; it needs 3 GB)
  CROZE_TEST_MIRROR  the Debian mirror (default http://deb.debian.org/debian)
USAGE
}

say() { printf 'vm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

fresh=
case ${1:-} in
    '') ;;
    --fresh) fresh=1 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
cache=${CROZE_TEST_VM:-/var/cache/croze-tests/vm}
work=$cache/work
mirror=${CROZE_TEST_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
suite=trixie
# The kernels: that of the guest's own suite, and Debian 12's.
kernels=(trixie bookworm)
# What the guest consists of: systemd with its user manager, AppArmor's loader, the peers, criu, and what tests call by name.
packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,udev,kmod,passwd,uidmap,procps,psmisc,util-linux,bsdextrautils
packages+=,mount,iproute2,iptables,nftables,apparmor,runc,crun,criu,busybox-static,ca-certificates,attr,acl,e2fsprogs,xfsprogs
packages+=,python3-minimal,libpython3-stdlib,strace,jq,gawk,file,tmux
# The kernel's modules that a guest may want; the rest of the 100 MB drives hardware that is not there.
modules=(fs net lib crypto block arch mm security drivers/block drivers/char drivers/virtio drivers/crypto/virtio drivers/md
    drivers/dax drivers/nvdimm drivers/net/{veth,dummy,tun,macvlan,macvtap,ifb,vrf,geneve,virtio_net,net_failover,loopback}.ko
    drivers/net/{ipvlan,vxlan,bonding,wireguard})

# stamp TEXT...: what identifies a stage's inputs.
stamp() { printf '%s\n' "$@" | sha256sum | cut -d' ' -f1; }
# made NAME STAMP: whether the stage is there and up to date.
made() { [ -e "$cache/$1" ] && [ "$(cat "$cache/$1.stamp" 2>/dev/null)" = "$2" ]; }
# finish NAME STAMP: the stage is complete under NAME.new.
finish() {
    rm -rf "${cache:?}/$1.stamp" "${cache:?}/$1"
    mv "$cache/$1.new" "$cache/$1"
    printf '%s\n' "$2" >"$cache/$1.stamp"
}

check_host() {
    [ "$(id -u)" = 0 ] || die "making the guest takes root"
    [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || die "the guest can be made on Debian for amd64 only"
    local program
    for program in debootstrap mke2fs depmod modprobe cpio xz tar busybox; do
        command -v "$program" >/dev/null || die "$program is missing; 'make setup-vm' installs what is needed"
    done
    [ -e "$keyring" ] || die "$keyring is missing; install debian-archive-keyring"
}

make_base() {
    local key=$1
    say "installing Debian $suite (some minutes)"
    mkdir -p "$cache/debs" "$work/base"
    debootstrap --variant=minbase --cache-dir="$cache/debs" --include="$packages" "$suite" "$work/base" "$mirror" \
        >"$cache/debootstrap.log" 2>&1 ||
        die "debootstrap failed (what it had fetched is kept; run this again): $(tail -n 3 "$cache/debootstrap.log")"
    rm -rf "$work"/base/var/{cache/apt,lib/apt/lists,log}/*
    tar -C "$work/base" --numeric-owner --xattrs -cf "$cache/base.tar.new" .
    rm -rf "$work/base"
    finish base.tar "$key"
}

# The newest kernel package of each suite, by an apt that has nothing to do with the host's.
apt_ready=
prepare_apt() {
    [ -z "$apt_ready" ] || return 0
    local apt=$cache/apt name
    mkdir -p "$apt"/{lists/partial,cache/archives/partial}
    : >"$apt/status"
    for name in "${kernels[@]}"; do echo "deb [signed-by=$keyring] $mirror $name main"; done >"$apt/sources.list"
    cat >"$apt/conf" <<CONF
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
CONF
    apt-get -qq -c "$apt/conf" update >&2 || die "the package lists of $mirror could not be had; is there a network?"
    apt_ready=1
}

make_kernel() {
    local name=$1 key=$2 version package deb
    say "fetching the kernel of Debian $name (100 MB)"
    prepare_apt
    # The generic flavour: the one for clouds has no 9p. The metapackage names it.
    version=$(apt-cache -c "$cache/apt/conf" madison linux-image-amd64 | awk -v want="$name/" 'index($0, want) { print $3; exit }')
    package=$(apt-cache -c "$cache/apt/conf" show "linux-image-amd64=$version" | sed -nE 's/^Depends: (linux-image-[^ ,]+).*/\1/p' | head -n 1)
    [ -n "$package" ] || die "no kernel package found in $name on $mirror"
    mkdir -p "$work/kernel-deb"
    (cd "$work/kernel-deb" && apt-get -q -c "$cache/apt/conf" download "$package" >/dev/null) || die "$package could not be fetched"
    deb=$(find "$work/kernel-deb" -name '*.deb')
    mkdir -p "$work/kernel" && dpkg -x "$deb" "$work/kernel" && rm -rf "$work/kernel-deb"
    pack_kernel "$name"
    rm -rf "$work/kernel"
    finish "kernel-$name" "$key"
}

# pack_kernel NAME: from the unpacked package in work/kernel to what is kept.
pack_kernel() {
    local out=$cache/kernel-$1.new version from to one
    version=$(basename "$work"/kernel/boot/vmlinuz-*) && version=${version#vmlinuz-}
    from=$work/kernel/usr/lib/modules/$version
    [ -d "$from" ] || from=$work/kernel/lib/modules/$version
    to=$work/kernel/picked/usr/lib/modules/$version
    rm -rf "$out" && mkdir -p "$out" "$to/kernel"
    for one in "${modules[@]}"; do
        for one in "$one" "$one.xz"; do
            [ -e "$from/kernel/$one" ] || continue
            mkdir -p "$to/kernel/$(dirname "$one")" && cp -a "$from/kernel/$one" "$to/kernel/$(dirname "$one")/"
        done
    done
    cp "$from"/modules.{builtin,builtin.modinfo,order} "$to/"
    ln -s usr/lib "$work/kernel/picked/lib"
    depmod -b "$work/kernel/picked" -F "$work/kernel/boot/System.map-$version" "$version"
    pack_initrd "$work/kernel/picked" "$version" "$out/initrd.gz"
    rm "$work/kernel/picked/lib"
    tar -C "$work/kernel/picked" --owner=0 --group=0 -cf "$out/modules.tar" usr/lib/modules
    cp "$work/kernel/boot/vmlinuz-$version" "$out/vmlinuz"
    echo "$version" >"$out/version"
}

# pack_initrd ROOT VERSION FILE: busybox, the modules that the root file system needs, and guest/init.
pack_initrd() {
    local initrd=$work/initrd module file name
    rm -rf "$initrd" && mkdir -p "$initrd"/{bin,proc,sys,dev,new,modules}
    cp "$(command -v busybox)" "$initrd/bin/busybox"
    cp "$here/guest/init" "$initrd/init"
    : >"$initrd/modules/order"
    for module in virtio_pci virtio_blk ext4 9pnet_virtio 9p overlay virtio_rng virtio_console; do
        modprobe -d "$1" -S "$2" --show-depends "$module" | awk '$1 == "insmod" { print $2 }' | while read -r file; do
            name=$(basename "$file" .xz)
            [ -e "$initrd/modules/$name" ] && continue
            case $file in
                *.xz) xz -dc "$file" >"$initrd/modules/$name" ;;
                *) cp "$file" "$initrd/modules/$name" ;;
            esac
            echo "$name" >>"$initrd/modules/order"
        done
    done
    (cd "$initrd" && find . | cpio -o -H newc --quiet | gzip -1) >"$3"
    rm -rf "$initrd"
}

# What a guest that lives for seconds has no use for.
idle_units=(apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
    xfs_scrub_all.timer getty@tty1.service console-getty.service serial-getty@ttyS0.service systemd-timesyncd.service
    systemd-networkd.service systemd-resolved.service apparmor.service criu.service systemd-update-done.service ldconfig.service
    systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-journal-flush.service systemd-update-utmp.service
    systemd-random-seed.service systemd-pcrmachine.service systemd-tpm2-setup.service systemd-tpm2-setup-early.service
    systemd-binfmt.service proc-sys-fs-binfmt_misc.automount sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount
    modprobe@drm.service systemd-udev-settle.service nftables.service systemd-firstboot.service systemd-sysusers.service)

make_image() {
    local key=$1 root=$work/root name unit
    say "packing the guest's disk"
    mkdir -p "$root"
    tar -C "$root" --numeric-owner --xattrs -xf "$cache/base.tar"
    for name in "${kernels[@]}"; do tar -C "$root" -xf "$cache/kernel-$name/modules.tar"; done
    echo vm >"$root/etc/hostname"
    : >"$root/etc/fstab"
    printf '127.0.0.1 localhost vm\n' >"$root/etc/hosts"
    printf 'cafe%028d\n' 0 >"$root/etc/machine-id"
    install -m 0755 "$here/guest/croze-guest" "$here/guest/power-cut" "$here/guest/run-tests" "$root/usr/local/sbin/"
    install -m 0644 "$here/guest/croze-guest.service" "$root/etc/systemd/system/"
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/etc/systemd/journald.conf.d" "$root/var/lib/systemd/linger"
    ln -sfn ../croze-guest.service "$root/etc/systemd/system/multi-user.target.wants/croze-guest.service"
    ln -sfn /usr/lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
    for unit in "${idle_units[@]}"; do ln -sfn /dev/null "$root/etc/systemd/system/$unit"; done
    printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/volatile.conf"
    # A user with subordinate ids, for what is rootless; `loginctl enable-linger tester` gives it a manager.
    chroot "$root" useradd -m -s /bin/bash tester
    rm -f "$cache/root.img.new" && truncate -s 4G "$cache/root.img.new"
    # Without a journal: the disk's changes are thrown away after each run.
    mke2fs -q -t ext4 -O ^has_journal -d "$root" "$cache/root.img.new"
    rm -rf "$root"
    finish root.img "$key"
}

check_host
base_key=$(stamp "$suite" "$packages")
initrd_key=$(stamp "${modules[*]}" "$(cat "$here/guest/init")")
image_key=$(stamp "$base_key" "$initrd_key" "${kernels[*]}" "${idle_units[*]}" "$(cat "$here"/guest/*)" "$(declare -f make_image)")
all_made() {
    local name
    for name in "${kernels[@]}"; do made "kernel-$name" "$initrd_key" || return 1; done
    made base.tar "$base_key" && made root.img "$image_key"
}

# The first call takes the lock and runs the script once more in a mount namespace of its own, with a directory to work in: in
# memory where there is enough of it, which is several times as fast for what syncs as often as dpkg does.
if [ "${CROZE_VM_INNER:-}" != "$$" ]; then
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock -n 9 || { say "waiting for another build of the guest to end"; flock 9; }
    [ -z "$fresh" ] || rm -rf "${cache:?}"/{debs,apt,base.tar,root.img} "$cache"/kernel-* "$cache"/*.stamp
    ! all_made || exit 0
    rm -rf "$work" && mkdir -p "$work"
    trap 'rm -rf "$work"' EXIT
    available=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
    # shellcheck disable=SC2016 # for the inner shell
    unshare -m --propagation private bash -c \
        'if [ "$1" -gt 6000000 ]; then mount -t tmpfs -o size=5g,mode=0755 croze-vm "$2"; fi
         CROZE_VM_INNER=$$ exec "$3"' - "$available" "$work" "$here/build.sh"
    exit
fi

made base.tar "$base_key" || make_base "$base_key"
for name in "${kernels[@]}"; do made "kernel-$name" "$initrd_key" || make_kernel "$name" "$initrd_key"; done
made root.img "$image_key" || make_image "$image_key"
say "the guest is ready in $cache ($(for name in "${kernels[@]}"; do printf 'Linux %s, ' "$(cat "$cache/kernel-$name/version")"; done)Debian $suite)"
