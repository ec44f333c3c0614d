#!/bin/sh
# Every check that needs no running program. All of them run; the script fails at the end if any of them did.
set -u

cargo=${CARGO:-cargo}
failed=

step() {
    title=$1
    shift
    printf 'check: %s\n' "$title"
    "$@" || failed="$failed
  $title"
}

documentation() { RUSTDOCFLAGS='-D warnings' "$cargo" doc --quiet --locked --keep-going --workspace --no-deps --document-private-items; }

licences() {
    if command -v cargo-deny >/dev/null 2>&1; then
        cargo-deny --locked check licenses bans sources
    else
        scripts/check-tree.py licences
    fi
}

step 'format' "$cargo" fmt --all --check
step 'lints' "$cargo" clippy --quiet --locked --keep-going --workspace --all-targets -- -D warnings
step 'documentation' documentation
step 'licences and banned packages' licences
step 'direction of imports' scripts/check-tree.py imports
step 'unsafe code only in croze-sys' scripts/check-tree.py unsafe
step 'length of files' scripts/check-tree.py lengths
step 'links in the documents' scripts/check-tree.py links

if [ -n "$failed" ]; then
    printf 'check: FAILED:%s\n' "$failed" >&2
    exit 1
fi
echo 'check: all passed'
