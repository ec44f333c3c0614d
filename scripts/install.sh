#!/bin/sh
# Installs what `make build` made, or removes it. Usage: install.sh install|uninstall
#
# PREFIX (default /usr/local) says where to, DESTDIR stands before every path (for packagers: then nothing outside of it is touched, no group is made
# and no service manager is told). Containers and images under /var/lib/croze are never touched.
set -eu

prefix=${PREFIX:-/usr/local}
dest=${DESTDIR:-}
bindir=$prefix/bin
mandir=$prefix/share/man
# systemd reads units of the administrator's own installations here.
unitdir=$prefix/lib/systemd/system
bash_dir=$prefix/share/bash-completion/completions
zsh_dir=$prefix/share/zsh/site-functions
fish_dir=$prefix/share/fish/vendor_completions.d
programs='crozed croze croze-rt croze-shim croze-init'

say() { printf '%s: %s\n' "$action" "$*"; }
die() { printf '%s: %s\n' "$action" "$*" >&2; exit 1; }
on_this_system() { [ -z "$dest" ] && [ "$(id -u)" = 0 ]; }

reload_units() {
    if on_this_system && [ -d /run/systemd/system ]; then
        systemctl daemon-reload || say 'systemctl daemon-reload failed; run it before you start the service'
    fi
}

install_all() {
    for program in $programs; do
        [ -x "bin/$program" ] || die "bin/$program is missing: run make build first"
    done
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    install -d "$dest$bindir" "$dest$mandir/man1" "$dest$mandir/man8" "$dest$unitdir" "$dest$bash_dir" "$dest$zsh_dir" "$dest$fish_dir"

    for program in $programs; do
        # Under a temporary name and renamed: a program that runs is never written to.
        install -m 0755 "bin/$program" "$dest$bindir/.$program.new"
        mv -f "$dest$bindir/.$program.new" "$dest$bindir/$program"
    done

    mkdir "$scratch/man1"
    bin/croze man-pages "$scratch/man1"
    bin/crozed --man-page "$scratch/crozed.8"
    install -m 0644 "$scratch"/man1/*.1 "$dest$mandir/man1/"
    install -m 0644 "$scratch/crozed.8" packaging/man/croze-rt.8 "$dest$mandir/man8/"

    # Commands of their own: what fails in front of && does not end a script.
    for shell in bash zsh fish; do bin/croze completion "$shell" >"$scratch/completion.$shell"; done
    install -m 0644 "$scratch/completion.bash" "$dest$bash_dir/croze"
    install -m 0644 "$scratch/completion.zsh" "$dest$zsh_dir/_croze"
    install -m 0644 "$scratch/completion.fish" "$dest$fish_dir/croze.fish"

    sed "s|@BINDIR@|$bindir|" packaging/systemd/croze.service >"$scratch/croze.service"
    install -m 0644 "$scratch/croze.service" "$dest$unitdir/croze.service"

    if on_this_system; then
        # Members may use the daemon's socket, which makes them as powerful as root.
        getent group croze >/dev/null || groupadd --system croze || say 'the group croze cannot be made; the socket will be for root alone'
    fi
    reload_units

    say "programs are in $dest$bindir, manual pages in $dest$mandir, completions for bash, zsh and fish in $dest$prefix/share"
    say "the service is $dest$unitdir/croze.service"
    if on_this_system; then
        if [ -d /run/systemd/system ]; then
            say 'start it with: systemctl enable --now croze'
        else
            say 'no systemd here; start the daemon with: crozed &'
        fi
        say 'who is to use it without being root goes into the group croze (such a user can become root): usermod -aG croze NAME'
    fi
}

uninstall_all() {
    if on_this_system && [ -d /run/systemd/system ]; then
        # Stopped while its program is there: it takes bridge, rules and settings back. Containers go on, if there are any.
        if systemctl --quiet is-active croze 2>/dev/null; then systemctl stop croze || say 'the service croze cannot be stopped'; fi
        if systemctl --quiet is-enabled croze 2>/dev/null; then systemctl --quiet disable croze || true; fi
    fi
    for program in $programs; do rm -f "$dest$bindir/$program"; done
    rm -f "$dest$mandir/man1/croze.1" "$dest$mandir"/man1/croze-*.1 "$dest$mandir/man8/crozed.8" "$dest$mandir/man8/croze-rt.8"
    rm -f "$dest$unitdir/croze.service" "$dest$bash_dir/croze" "$dest$zsh_dir/_croze" "$dest$fish_dir/croze.fish"
    # Directories that install made, as far as nothing of anybody else is in them; deepest first.
    for directory in "$mandir/man1" "$mandir/man8" "$unitdir" "${unitdir%/*}" "$bash_dir" "${bash_dir%/*}" "$zsh_dir" "${zsh_dir%/*}" \
        "$fish_dir" "${fish_dir%/*}"; do
        rmdir "$dest$directory" 2>/dev/null || true
    done
    reload_units
    say "the programs, manual pages, completions and the service are gone from $dest$prefix"
    say 'the group croze, images and containers in /var/lib/croze and the configuration in /etc/croze stay'
}

action=${1:-}
case $action in
    install) install_all ;;
    uninstall) uninstall_all ;;
    *)
        action=install.sh
        die 'usage: install.sh install|uninstall'
        ;;
esac
