#!/bin/sh
# Builds every program in release mode and leaves it in bin/.
#
# The static programs are built one package at a time: in one build of the whole workspace cargo would unify the features
# of their dependencies with those of the daemon, and they would grow. croze-hello comes first, because crozed's build
# embeds it as the image croze/hello. They are linked to a fixed address: relocating themselves takes a good part of the time in
# which croze-rt does its work (docs/decisions/0006).
set -eu

cargo=${CARGO:-cargo}
target_dir=$("$cargo" metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
machine=$(uname -m)
bin=$PWD/bin
mkdir -p "$bin"

# CROZE_LIBC=glibc takes the second way even where the first is there.
if [ "${CROZE_LIBC:-musl}" = musl ] && [ -d "$(rustc --print sysroot)/lib/rustlib/$machine-unknown-linux-musl/lib" ]; then
    target=$machine-unknown-linux-musl
    static_flags=
    kind="static musl"
else
    target=$machine-unknown-linux-gnu
    static_flags=-Ctarget-feature=+crt-static
    kind="static glibc"
fi

# Installed under a temporary name and renamed: a program that runs is never written to. One that is the same keeps its time, so
# that crozed is not built again for an unchanged croze-hello.
install_program() {
    cmp -s "$1" "$bin/$2" && return
    install -m 0755 "$1" "$bin/.$2.new" && mv -f "$bin/.$2.new" "$bin/$2"
}

for program in croze-hello croze-rt croze-shim croze-init croze-probe; do
    printf 'build: %s (%s)\n' "$program" "$kind"
    RUSTFLAGS="${RUSTFLAGS:-} $static_flags -Crelocation-model=static" \
        "$cargo" build --quiet --locked --profile tiny --target "$target" --package "$program"
    install_program "$target_dir/$target/tiny/$program" "$program"
done

echo 'build: crozed, croze'
# The image croze/hello is as old as its source.
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct -- manager/crates/hello 2>/dev/null) || SOURCE_DATE_EPOCH=
fi
SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH CROZE_HELLO=$bin/croze-hello "$cargo" build --quiet --locked --release --package crozed --package croze-cli
for program in crozed croze; do
    install_program "$target_dir/release/$program" "$program"
done

printf 'build: done; the programs are in %s\n' "$bin"
