#!/bin/sh
# A first look at Croze: containers from start to end, and a web page on a published port. The daemon's directories, bridge and network namespace
# are its own, so that nothing of the host is touched; in the end every trace is removed, and looked for.
set -eu

fail() { printf 'quickstart: FAILED: %s\n' "$*" >&2; exit 1; }
title() { printf '\n== %s\n' "$*"; }
show() { printf '$ croze %s\n' "$*"; "$bin/croze" "$@"; }

# Debian keeps network tools in sbin.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || fail 'containers need root here: sudo scripts/quickstart.sh does the same with what was built'

for program in ip nsenter mktemp; do
    command -v "$program" >/dev/null 2>&1 || fail "$program is not installed (Debian: apt install iproute2 util-linux)"
done

bin=$PWD/bin
for program in crozed croze croze-rt croze-shim croze-hello; do
    [ -x "$bin/$program" ] || fail "bin/$program is not there: run make build first, and this from the top of the source tree"
done
scratch=$(mktemp -d /tmp/croze-quickstart-XXXXXX)
export CROZE_HOST="unix://$scratch/croze.sock"
# Named for this run; an interface's name has 15 characters at most.
own=${scratch##*-}
namespace=croze-qs-$own
bridge=crozeqs-$own
# In a network namespace of its own every port is free.
port=8080
daemon=

# stop_daemon: tells it to end, and waits until it has.
stop_daemon() {
    [ -n "$daemon" ] || return 0
    kill -TERM "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
    daemon=
}

# own_processes: the pids of what lives in the daemon's network namespace (daemon, shims, port proxies) and of their children, the containers.
own_processes() {
    own_pids=" $(ip netns pids "$namespace" 2>/dev/null | tr '\n' ' ')"
    [ "$own_pids" != ' ' ] || return 0
    for directory in /proc/[0-9]*; do
        pid=${directory#/proc/}
        # One that ends meanwhile has nothing to say.
        parent=$(sed -n 's/^PPid:[[:space:]]*//p' "$directory/status" 2>/dev/null) || continue
        case $own_pids in *" $pid "* | *" $parent "*) printf '%s\n' "$pid" ;; esac
    done
}

# Whatever happens: no container, no daemon, no namespace, no directory stays. On the good path all of this finds nothing to do.
clean_up() {
    code=$?
    trap - EXIT INT TERM
    if [ -n "$daemon" ]; then
        "$bin/croze" rm -f hello web >/dev/null 2>&1 || true
        stop_daemon
    fi
    # What a daemon that died left running: shims, port proxies, containers.
    for pid in $(own_processes); do kill -KILL "$pid" 2>/dev/null || true; done
    tries=0
    until [ -z "$(own_processes)" ] || [ "$tries" -ge 50 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    if [ "$code" != 0 ] && [ -s "$scratch/crozed.log" ]; then
        printf '\nquickstart: the daemon said:\n' >&2
        tail -n 20 "$scratch/crozed.log" >&2
    fi
    ip netns delete "$namespace" 2>/dev/null || true
    for point in $(cut -d' ' -f5 /proc/self/mountinfo | grep -F "$scratch" | sort -r); do
        umount -l "$point" 2>/dev/null || true
    done
    rm -rf "$scratch"
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# What the host shows of cgroups, interfaces, network namespaces and packet filter tables.
host_state() {
    find /sys/fs/cgroup -type d 2>/dev/null | sed 's/^/cgroup /'
    find /sys/class/net -mindepth 1 | sed 's/^/interface /'
    ip netns list 2>/dev/null | sed 's/^/network namespace /'
    if command -v nft >/dev/null 2>&1; then nft list tables 2>/dev/null || true; fi
}
host_state | sort >"$scratch/host.before"

# in_namespace COMMAND...: as seen from the namespace in which the daemon lives.
in_namespace() { nsenter --net="/run/netns/$namespace" "$@"; }

title "1. start the daemon: its state in $scratch, its network in a namespace of its own"
ip netns add "$namespace"
ip -n "$namespace" link set lo up
# Not by the function: its subshell would be what $! names, not the daemon.
nsenter --net="/run/netns/$namespace" "$bin/crozed" --root "$scratch/root" --run-root "$scratch/run" --socket "$scratch/croze.sock" \
    --bridge "$bridge" >"$scratch/crozed.log" 2>&1 &
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
show run --name hello -m 64m --cpus 0.5 croze/hello

title '3. the container has ended; its record stays until it is removed'
show ps -a

title '4. what it printed is kept by the shim, not by the daemon'
show logs hello >"$scratch/logs"
[ "$(wc -l <"$scratch/logs")" -gt 1 ] || fail 'the log of the container is empty'
head -n 6 "$scratch/logs"
printf '  ... (%s lines)\n' "$(($(wc -l <"$scratch/logs") - 1))"

title "5. serve a web page from a second container, published on port $port"
show run -d --name web -p "$port:8080" croze/hello serve
show ps

title '6. fetch that page through the published port'
printf '$ croze-hello fetch http://127.0.0.1:%s/text\n' "$port"
in_namespace "$bin/croze-hello" fetch "http://127.0.0.1:$port/text" >"$scratch/page" || fail 'the page cannot be fetched'
grep -q 'Hello from Croze!' "$scratch/page" || fail "what was fetched is not the page: $(head -c 300 "$scratch/page")"
grep -E 'Hello from|hostname|network' "$scratch/page"
printf '  ... (%s lines)\n' "$(wc -l <"$scratch/page")"

title '7. the images there are'
show images

title '8. stop and remove the containers, stop the daemon'
show stop web
show rm hello web
stop_daemon

title '9. look for anything left behind'
processes=$(own_processes)
[ -z "$processes" ] || fail "processes are left: $processes"
mounts=$(grep -F "$scratch" /proc/self/mountinfo || true)
[ -z "$mounts" ] || fail "mounts are left: $mounts"
left=$(in_namespace sh -c 'cat /proc/net/dev' | grep -v -e '^Inter' -e '^ face' -e '^ *lo:' || true)
[ -z "$left" ] || fail "interfaces are left in the daemon's namespace: $left"
if command -v nft >/dev/null 2>&1; then
    left=$(in_namespace nft list tables || true)
    [ -z "$left" ] || fail "packet filter tables are left in the daemon's namespace: $left"
fi
ip netns delete "$namespace"
# Only new things of ours count: others may come and go on a busy host.
left=$(host_state | sort | comm -13 "$scratch/host.before" - | grep -F croze || true)
[ -z "$left" ] || fail "this is left on the host: $left"
rm -rf "$scratch"
[ ! -e "$scratch" ] || fail "$scratch cannot be removed"
echo 'no process, mount, cgroup, interface, packet filter table, network namespace or directory is left'

printf '\nquickstart: done. A container ran in isolation, another one served a page on a published port, and every trace of them is gone.\n'
