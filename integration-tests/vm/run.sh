#!/usr/bin/env bash
# Boots the guest that build.sh makes, runs one command in it, prints its output and returns its exit status.
#
#   host                                           guest (QEMU's software emulation: no KVM is needed)
#   --share DIR ──────────── 9p, read and write ──► /host
#   standard output ◄── virtio port `out` ───────── output of the command
#   (a directory) ────────── 9p ──────────────────► /ctl: command, status
#   root.img ─────────────── virtio disk ─────────► /        changes are thrown away
#   --disk FILE ──────────── virtio disk ─────────► /dev/vdb changes are kept, flushes honoured
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: run.sh [options] -- COMMAND...

Runs a shell command in the guest. The exit status is the command's; 125 if the guest did not get that far.

  --kernel NAME    which kernel: trixie (6.12, the default) or bookworm (6.1)
  --share DIR      a directory of the host, at /host in the guest (default: the current one). Programs start slowly from there:
                   copy them to the guest's /tmp first
  --disk FILE      a disk that is kept, /dev/vdb in the guest; made with 1 GiB, empty, if it is not there
  --power-cut      the command must end by calling `power-cut`, which switches the machine off with nothing synced: that is
                   success then, and everything else is 125
  --append WORDS   more words for the kernel's command line
  --seconds N      how long it may take, boot included (default 600)
  --memory MIB     the guest's memory (default 2048)
  --cpus N         its processors (default 2)
  --console FILE   keep what the guest wrote to its console
  --help           this text

  CROZE_TEST_VM    where build.sh keeps the guest (default /var/cache/croze-tests/vm)
USAGE
}

say() { printf 'vm: %s\n' "$*" >&2; }
die() { say "$*"; exit 125; }

cache=${CROZE_TEST_VM:-/var/cache/croze-tests/vm}
kernel=trixie share=$PWD disk='' cut='' append='' seconds=600 memory=2048 cpus=2 keep_console=''
while [ $# -gt 0 ]; do
    case $1 in
        --) shift; break ;;
        --help | -h) usage; exit 0 ;;
        --power-cut) cut=1; shift; continue ;;
    esac
    [ $# -ge 2 ] || { usage >&2; exit 2; }
    case $1 in
        --kernel) kernel=$2 ;;
        --share) share=$2 ;;
        --disk) disk=$2 ;;
        --append) append=$2 ;;
        --seconds) seconds=$2 ;;
        --memory) memory=$2 ;;
        --cpus) cpus=$2 ;;
        --console) keep_console=$2 ;;
        *) say "unknown option $1"; usage >&2; exit 2 ;;
    esac
    shift 2
done
[ $# -gt 0 ] || { usage >&2; exit 2; }

command -v qemu-system-x86_64 >/dev/null || die "qemu-system-x86_64 is missing; 'make setup-vm' installs it"
[ -e "$cache/kernel-$kernel/vmlinuz" ] || die "there is no kernel $kernel in $cache; integration-tests/vm/build.sh makes it"
[ -e "$cache/root.img" ] || die "there is no guest in $cache; integration-tests/vm/build.sh makes it"
[ -d "$share" ] || die "--share $share is no directory"
# Commas separate options for QEMU.
case $share$disk$cache in *,*) die "a path with a comma in it cannot be handed to QEMU" ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/ctl"
mkfifo "$work/never"
printf '%s\n' "$*" >"$work/ctl/command"

arguments=(
    -nodefaults -no-user-config -display none -no-reboot
    -machine q35 -accel tcg,thread=multi,tb-size=512 -cpu max -smp "$cpus" -m "$memory"
    -kernel "$cache/kernel-$kernel/vmlinuz" -initrd "$cache/kernel-$kernel/initrd.gz"
    -append "console=ttyS0 quiet loglevel=3 systemd.show_status=0 mitigations=off nokaslr random.trust_cpu=on tsc=reliable
        no_timer_check panic=-1 rw $append"
    -drive "file=$cache/root.img,if=virtio,format=raw,snapshot=on,cache=unsafe"
    -fsdev "local,id=ctl,path=$work/ctl,security_model=none" -device virtio-9p-pci,fsdev=ctl,mount_tag=ctl
    -fsdev "local,id=host,path=$share,security_model=none" -device virtio-9p-pci,fsdev=host,mount_tag=host
    -device virtio-serial-pci -chardev stdio,id=out,signal=off -device virtserialport,chardev=out,name=out
    -device virtio-rng-pci -serial "file:$work/console"
)
if [ -n "$disk" ]; then
    [ -e "$disk" ] || truncate -s 1G "$disk"
    # A flush of the guest reaches the file's own disk before it is answered.
    arguments+=(-drive "file=$disk,if=virtio,format=raw,cache=writeback")
fi

# QEMU's own standard input is one that never ends: at an end of file it would close the port.
code=0
timeout -k 5 "$seconds" qemu-system-x86_64 "${arguments[@]}" <>"$work/never" | cat || code=$?
[ -z "$keep_console" ] || cp "$work/console" "$keep_console"
status=$(cat "$work/ctl/status" 2>/dev/null || true)
case $status in
    cut) [ -n "$cut" ] || die "the guest's power was cut, which was not expected"; exit 0 ;;
    '')
        if [ "$code" = 124 ]; then say "the guest was stopped after $seconds seconds"; else say "the guest ended without an exit status"; fi
        say "the end of its console:"
        tail -n 20 "$work/console" >&2 || true
        exit 125
        ;;
    *) [ -z "$cut" ] || die "the command ended with $status instead of cutting the power"; exit "$status" ;;
esac
