#!/bin/sh
# One container from start to end, with a daemon whose directories are its own; in the end every trace is removed.
set -eu

fail() { printf 'quickstart: FAILED: %s\n' "$*" >&2; exit 1; }
title() { printf '\n== %s\n' "$*"; }
show() { printf '$ croze %s\n' "$*"; "$bin/croze" "$@"; }

[ "$(id -u)" = 0 ] || fail 'containers need root here: run it as root (sudo make quickstart)'

bin=$PWD/bin
scratch=$(mktemp -d /tmp/croze-quickstart-XXXXXX)
export CROZE_HOST="unix://$scratch/croze.sock"
name=quickstart
daemon=

cgroups() { find /sys/fs/cgroup -type d 2>/dev/null | sort; }
interfaces() { find /sys/class/net -mindepth 1 | sort; }
cgroups >"$scratch/cgroups.before"
interfaces >"$scratch/interfaces.before"

# stop_daemon: tells it to end, and waits until it has.
stop_daemon() {
    [ -n "$daemon" ] || return 0
    kill -TERM "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
    daemon=
}

# Whatever happens: no container, no daemon, no directory stays. On the good path all of this finds nothing to do.
clean_up() {
    code=$?
    trap - EXIT INT TERM
    if [ -n "$daemon" ]; then
        "$bin/croze" rm -f "$name" >/dev/null 2>&1 || true
        stop_daemon
    fi
    if [ "$code" != 0 ] && [ -s "$scratch/crozed.log" ]; then
        printf '\nquickstart: the daemon said:\n' >&2
        tail -n 20 "$scratch/crozed.log" >&2
    fi
    for point in $(cut -d' ' -f5 /proc/self/mountinfo | grep -F "$scratch" | sort -r); do
        umount -l "$point" 2>/dev/null || true
    done
    rm -rf "$scratch"
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

title "1. start the daemon, with its state in $scratch"
"$bin/crozed" --root "$scratch/root" --run-root "$scratch/run" --socket "$scratch/croze.sock" \
    --default-network none >"$scratch/crozed.log" 2>&1 &
daemon=$!
tries=0
until "$bin/croze" version >/dev/null 2>&1; do
    kill -0 "$daemon" 2>/dev/null || fail 'crozed ended at once'
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || fail 'crozed did not answer within 20 seconds'
    sleep 0.1
done
show version

title '2. run the embedded image croze/hello with 64 MiB of memory and half a CPU'
show run --name "$name" -m 64m --cpus 0.5 croze/hello

title '3. the container has ended; its record stays until it is removed'
show ps -a

title '4. what it printed is kept by the shim, not by the daemon'
show logs "$name" >"$scratch/logs"
[ "$(wc -l <"$scratch/logs")" -gt 1 ] || fail 'the log of the container is empty'
head -n 6 "$scratch/logs"
printf '  ... (%s lines)\n' "$(($(wc -l <"$scratch/logs") - 1))"

title '5. the images there are'
show images

title '6. remove the container and stop the daemon'
show rm "$name"
stop_daemon

title '7. look for anything left behind'
processes=$(for directory in /proc/[0-9]*; do
    # A process that ends meanwhile has nothing to say.
    { tr '\0' ' ' <"$directory/cmdline" | grep -F "$scratch"; } 2>/dev/null || true
done)
[ -z "$processes" ] || fail "processes are left: $processes"
mounts=$(grep -F "$scratch" /proc/self/mountinfo || true)
[ -z "$mounts" ] || fail "mounts are left: $mounts"
# Only new cgroups of ours count: others may come and go on a busy host.
left=$(cgroups | comm -13 "$scratch/cgroups.before" - | grep -F croze || true)
[ -z "$left" ] || fail "cgroups are left: $left"
left=$(interfaces | comm -13 "$scratch/interfaces.before" - | grep -F croze || true)
[ -z "$left" ] || fail "interfaces are left: $left"
rm -rf "$scratch"
[ ! -e "$scratch" ] || fail "$scratch cannot be removed"
echo 'no process, mount, cgroup, interface or directory is left'

printf '\nquickstart: done. One container ran in isolation, and every trace of it is gone.\n'
