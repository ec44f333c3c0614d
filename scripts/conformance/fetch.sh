# shellcheck shell=bash
# Sourced by conformance.sh: fetches what others made into a cache outside of the tree, unpacks and builds it there. Nothing is
# installed, and the machine's own apt configuration is not touched.
#
#   $cache/apt        an apt configuration of its own, for Debian 13 (trixie)
#   $cache/unpacked   Debian packages, unpacked: runc, crun, their libraries, Go and the Go libraries that runtime-tools needs
#   $cache/peers      runc and crun, pointed at those libraries
#   $cache/crun       crun's source with its Python tests
#   $cache/validation runtime-tools' programs, built
#
# Each step ends with a rename or a mark, so that an interrupted one is done anew.

readonly RELEASE=trixie
# golang-1.24 is a program without a C compiler; the others are what validation/ and cmd/runtimetest import.
readonly PACKAGES="runc crun libc6 libcap2 libseccomp2 libsystemd0 libyajl2 patchelf golang-1.24-go golang-1.24-src
    golang-github-blang-semver-dev golang-github-cpuguy83-go-md2man-v2-dev golang-github-google-uuid-dev
    golang-github-hashicorp-errwrap-dev golang-github-hashicorp-go-multierror-dev golang-github-mrunalp-fileutils-dev
    golang-github-opencontainers-selinux-dev golang-github-opencontainers-specs-dev golang-github-russross-blackfriday-v2-dev
    golang-github-sirupsen-logrus-dev golang-github-urfave-cli-dev golang-github-xeipuuv-gojsonpointer-dev
    golang-github-xeipuuv-gojsonreference-dev golang-github-xeipuuv-gojsonschema-dev golang-gocapability-dev
    golang-golang-x-sys-dev"

configure_apt() {
    local apt=$cache/apt keyring=/usr/share/keyrings/debian-archive-keyring.gpg kind
    mkdir -p "$apt/lists/partial" "$apt/state" "$apt/cache/archives/partial" "$apt/files"
    for kind in deb deb-src; do
        echo "$kind [signed-by=$keyring] ${CROZE_TEST_MIRROR:-http://deb.debian.org/debian} $RELEASE main"
    done >"$apt/sources.list"
    cat >"$apt/conf" <<CONF
Dir::State "$apt/state";
Dir::State::lists "$apt/lists";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "root";
CONF
    apt-get -q -c "$apt/conf" update >&2
}

# archive SOURCE: the authors' archive of a source package. A mirror may lack the packaging files, which are not needed; apt keeps
# an archive only if its checksum is right.
archive() {
    (cd "$cache/apt/files" && apt-get -q -c ../conf source --download-only "$1" >&2) || true
    local found
    found=$(find "$cache/apt/files" -name "$1_*.orig.tar.*" ! -name '*.asc' | sort -V | tail -n 1)
    [ -n "$found" ] || { echo "conformance: the source package of $1 could not be had from the mirror" >&2; exit 1; }
    echo "$found"
}

unpack_packages() {
    local package new=$cache/unpacked.new
    rm -rf "$new" && mkdir -p "$new" "$cache/apt/files"
    # shellcheck disable=SC2086 # one word per package
    (cd "$cache/apt/files" && rm -f ./*.deb && apt-get -q -c ../conf download $PACKAGES >&2)
    for package in "$cache"/apt/files/*.deb; do dpkg-deb -x "$package" "$new"; done
    rm -f "$cache"/apt/files/*.deb
    mv "$new" "$cache/unpacked"
}

# The programs of another release want its C library: they are told where that is.
make_peers() {
    local libraries=$cache/unpacked/usr/lib/x86_64-linux-gnu new=$cache/peers.new name
    rm -rf "$new" && mkdir -p "$new"
    cp "$cache/unpacked/usr/sbin/runc" "$cache/unpacked/usr/bin/crun" "$new"
    for name in runc crun; do
        "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries:/usr/lib/x86_64-linux-gnu" "$cache/unpacked/usr/bin/patchelf" \
            --set-interpreter "$libraries/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$libraries" "$new/$name"
        "$new/$name" --version >/dev/null
    done
    mv "$new" "$cache/peers"
}

make_crun_tests() {
    local new=$cache/crun.new
    rm -rf "$new" && mkdir -p "$new"
    tar -xf "$(archive crun)" -C "$new" --strip-components=1
    printf '#define HAVE_LINUX_IOPRIO_H 1\n#define HAVE_SECCOMP 1\n' >"$new/tests/config.h"
    gcc -O1 -static -I"$new/tests" -o "$new/tests/init" "$new/tests/init.c"
    mv "$new" "$cache/crun"
}

# Built as Debian builds Go: from unpacked packages below one directory. The library that writes TAP is not packaged; tap.go is it.
make_validation() {
    local paths=$cache/unpacked/usr/share/gocode new=$cache/validation.new
    local source=$paths/src/github.com/opencontainers/runtime-tools
    rm -rf "$new" "$source" && mkdir -p "$new/programs" "$source" "$paths/src/github.com/mndrix/tap-go"
    tar -xf "$(archive golang-github-opencontainers-runtime-tools)" -C "$source" --strip-components=1
    cp "$tree/scripts/conformance/tap.go" "$paths/src/github.com/mndrix/tap-go/"
    (
        cd "$source"
        export GOROOT=$cache/unpacked/usr/lib/go-1.24 GOPATH=$paths GOCACHE=$new/cache GO111MODULE=off GOFLAGS='' CGO_ENABLED=0
        "$GOROOT/bin/go" build -o "$new/runtimetest" ./cmd/runtimetest
        "$GOROOT/bin/go" build -o "$new/programs/" ./validation/...
    )
    cp "$source"/rootfs-*.tar.gz "$new"
    rm -rf "$new/cache"
    mv "$new" "$cache/validation"
}

# Fetches and makes what is not there yet.
fetch() {
    if [ ! -d "$cache/unpacked" ] || [ ! -d "$cache/crun" ] || [ ! -d "$cache/validation" ]; then configure_apt; fi
    [ -d "$cache/unpacked" ] || unpack_packages
    [ -d "$cache/peers" ] || make_peers
    [ -d "$cache/crun" ] || make_crun_tests
    [ -d "$cache/validation" ] || make_validation
}
