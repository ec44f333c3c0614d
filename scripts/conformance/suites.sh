# shellcheck shell=bash
# Sourced by conformance.sh: one function for each suite. It gets a runtime's name and program, and prints one line for each test:
# RESULT<tab>NAME[<tab>REASON], where RESULT is "ok", "skip" or "FAIL".

# in_view host|one-version FUNCTION ARGUMENT...: in a mount namespace of its own, so that what a suite mounts goes with it.
in_view() {
    local view=$1
    shift
    export -f run_ours run_crun run_validation validate normal_tap clean_cgroups
    # shellcheck disable=SC2016 # the inner shell's words
    unshare -m --propagation private bash -c 'set -euo pipefail
        if [ "$0" = one-version ] && umount /sys/fs/cgroup/unified 2>/dev/null; then
            # crun makes directories there all the same: they shall go with the view.
            mount -t tmpfs -o size=16m tmpfs /sys/fs/cgroup/unified
        fi
        "$@"' "$view" "$@"
}

# run_ours NAME PROGRAM
run_ours() {
    RUNTIME=$2 CROZE_BIN=$tree/bin "$tree/bin/croze-conformance" || true
}

# run_crun NAME PROGRAM: crun's Python tests. They always give two flags that runc does not have.
run_crun() {
    local program=$2 file helper
    if [ "$1" = runc ]; then
        cat >"$work/runc-wrapper" <<WRAPPER
#!/usr/bin/env bash
words=()
while [ \$# -gt 0 ]; do
    case \$1 in
        --cgroup-manager | --config) shift 2 ;;
        *) words+=("\$1"); shift ;;
    esac
done
exec $2 "\${words[@]}"
WRAPPER
        chmod +x "$work/runc-wrapper"
        program=$work/runc-wrapper
    fi
    cd "$cache/crun"
    for file in tests/test_*.py; do
        # Debian's own Python, and the module that one of the files asks for. A helper that a test leaves behind holds its output open, so
        # nothing waits for the end of a pipe.
        OCI_RUNTIME=$program INIT=$PWD/tests/init PYTHONPATH=$tree/scripts/conformance PYTHONDONTWRITEBYTECODE=1 \
            timeout 120 /usr/bin/python3 "$file" </dev/null >"$work/tap" 2>"$work/log" || true
        sed -nE "s,^ok [0-9]+ - (.*) #SKIP,skip\t$(basename "$file" .py).\1,p;t
                 s,^ok [0-9]+ - (.*),ok\t$(basename "$file" .py).\1,p
                 s,^not ok [0-9]+ - (.*),FAIL\t$(basename "$file" .py).\1,p" "$work/tap"
        for helper in /proc/[0-9]*; do
            [ "$(readlink "$helper/exe")" != "$PWD/tests/init" ] || kill -KILL "${helper#/proc/}" || true
        done
    done
    clean_cgroups
}

# One of crun's tests freezes its process in a cgroup of its own, and leaves it there if it fails; other runtimes leave empty cgroups
# by the tests' names behind.
clean_cgroups() {
    local frozen=/sys/fs/cgroup/freezer/frozen
    if [ -d $frozen ]; then
        while read -r pid; do kill -KILL "$pid"; done <$frozen/tasks || true
        echo THAWED >$frozen/freezer.state
        until rmdir $frozen 2>/dev/null || [ ! -d $frozen ]; do read -rt 0.1 <> <(:) || true; done
    fi
    find /sys/fs/cgroup -depth -type d \( -name 'test-tmp*' -o -name cgrouptest -o -name testdir \) -exec rmdir {} + 2>/dev/null || true
}

# run_validation NAME PROGRAM: each program in the directory where it finds its root file system and the program that looks from inside.
# Some ask for no mount namespace: what the runtime mounts in the bundle then goes with the view's.
run_validation() {
    local program file
    cd "$cache/validation"
    export TMPDIR=$work/$1
    mkdir -m 0711 "$TMPDIR"
    for program in programs/*; do
        file=$work/validation.$1.$(basename "$program").log
        # They wait by the clock, so on a busy host one may be wrong about what it saw: what fails is asked once more, whatever the runtime.
        if ! validate "$program" "$2" "$file" || grep -q '^not ok' "$file"; then
            validate "$program" "$2" "$file" || true
        fi
        if [ -e "$file.ended-well" ]; then
            echo -e "ok\t$(basename "$program").(ends well)"
        else
            echo -e "FAIL\t$(basename "$program").(ends well)\t$(tail -n 1 "$file.err" | tr '\t' ' ')"
        fi
        normal_tap "$(basename "$program")" <"$file"
    done
    # Containers that a program gave up on.
    local state
    for state in $(RUNTIME=$2 "$2" list -q 2>/dev/null); do
        case $state in *-*-*-*-*) "$2" delete --force "$state" 2>/dev/null || true ;; esac
    done
    clean_cgroups
}

# validate PROGRAM RUNTIME FILE: one program's TAP into the file, what it complains of into FILE.err; FILE.ended-well is there if it ended well.
validate() {
    rm -f "$3.ended-well"
    RUNTIME=$2 timeout 60 "$1" </dev/null >"$3" 2>"$3.err" && touch "$3.ended-well"
}

# normal_tap PROGRAM: TAP on standard input, that of a program inside (which the outer one quotes as JSON) included, as our lines.
normal_tap() {
    python3 "$tree/scripts/conformance/tap.py" "$1"
}
