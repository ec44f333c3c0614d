#!/bin/sh
# An OCI runtime as the shim sees one, without containers: create starts ./command (waiting for start), exec starts ./exec-command.
# Called as: --root ROOT --log LOG --log-format json VERB …
log=$4
verb=$7
shift 7
fail() {
    echo "{\"level\":\"error\",\"msg\":\"$1\",\"time\":\"t\"}" >>"$log"
    exit 1
}
case $verb in
create)
    [ -e fail-create ] && fail "no such luck"
    [ -e command ] || fail "no command"
    mkfifo start.fifo
    # The inner subshell is orphaned at once, as a real runtime's container is, and becomes a child of the shim.
    exec 3<&0
    (sh -c 'echo $$ >init.pid.tmp; mv init.pid.tmp init.pid; [ -e at-once ] || read -r _ <start.fifo; exec sh ./command' <&3 3<&- &)
    exec 3<&-
    while ! [ -e init.pid ]; do :; done
    # A runtime may go on for a while after the process has begun, or even ended.
    [ -e at-once ] && while ! [ -e command-ended ]; do :; done
    ;;
start)
    [ -e fail-start ] && fail "cannot start"
    # A start that takes its time: until somebody opens the gate.
    [ -p gate ] && read -r _ <gate
    echo go >start.fifo
    ;;
exec)
    [ -e hang-exec ] && exec sleep 1000
    shift 2
    while [ "$1" != --pid-file ]; do shift; done
    pid_file=$2
    exec 3<&0
    (sh -c "echo \$\$ >$pid_file.tmp; mv $pid_file.tmp $pid_file; exec sh ./exec-command" <&3 3<&- &)
    exec 3<&-
    while ! [ -e "$pid_file" ]; do :; done
    ;;
delete)
    echo deleted >>../deleted
    ;;
esac
exit 0
