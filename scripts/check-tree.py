#!/usr/bin/env python3
"""Checks of the tree that no compiler makes: licences, imports, unsafe code, lengths, links.

Usage: check-tree.py licences|imports|unsafe|lengths|links
Needs nothing but Python's standard library and what `cargo metadata` says; uses no network.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Lines; about 400 is what a reader likes.
LONGEST_FILE = 600

# Who may import whom, among our own packages; ARCHITECTURE.md draws it. What is not listed may import nothing of ours.
ALLOWED = {
    "croze-sys": set(),
    "croze-seccomp": {"croze-sys"},
    "croze-cgroups": {"croze-sys"},
    "croze-container": {"croze-sys", "croze-seccomp", "croze-cgroups"},
    "croze-rt": {"croze-sys", "croze-seccomp", "croze-cgroups", "croze-container"},
    "croze-proto": set(),
    "croze-model": set(),
    "croze-store": {"croze-model", "croze-sys"},
    "croze-content": {"croze-model", "croze-store", "croze-sys"},
    "croze-registry": {"croze-model"},
    "croze-layers": {"croze-model", "croze-sys"},
    "croze-snapshots": {"croze-model", "croze-store", "croze-layers", "croze-sys"},
    "croze-images": {
        "croze-model", "croze-store", "croze-content", "croze-registry", "croze-layers", "croze-snapshots",
    },
    "croze-containers": {
        "croze-model", "croze-store", "croze-snapshots", "croze-proto", "croze-sys", "croze-cgroups",
    },
    "croze-networks": {"croze-model", "croze-store", "croze-sys"},
    "croze-engine": {
        "croze-model", "croze-store", "croze-content", "croze-registry", "croze-layers", "croze-snapshots",
        "croze-images", "croze-containers", "croze-networks", "croze-sys", "croze-cgroups",
    },
    # A door knows the engine and the wire, and nothing below the engine but the words of the model.
    "croze-door-grpc": {"croze-engine", "croze-proto", "croze-model"},
    "croze-client": {"croze-proto", "croze-model"},
    # The CLI sees only the client (the model's and the wire's words come to it through that).
    "croze-cli": {"croze-client"},
    "croze-shim": {"croze-proto", "croze-sys", "croze-cgroups", "croze-model"},
    "croze-init": {"croze-sys"},
    "croze-hello": set(),
    # The daemon's package wires the doors to the engine; it never links the runtime.
    "crozed": {
        "croze-engine", "croze-door-grpc", "croze-model", "croze-proto", "croze-store", "croze-content",
        "croze-registry", "croze-layers", "croze-snapshots", "croze-images", "croze-containers", "croze-networks",
        "croze-sys", "croze-cgroups",
    },
    "croze-probe": set(),
    "croze-fuzz": {"croze-integration-tests"},
    "croze-integration-tests": set(),
    "croze-conformance": {"croze-integration-tests"},
    "croze-bench": {"croze-sys", "croze-integration-tests"},
}

# Packages that shall not be in the tree, with the reason.
BANNED = {
    "aws-lc-sys": "takes minutes to build; rustls uses ring here",
    "openssl-sys": "a system library; TLS is rustls",
}


# Only what is built for Linux counts; without this cargo would fetch the packages of every other platform.
PLATFORM = "x86_64-unknown-linux-gnu"


def metadata(*flags):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", PLATFORM, *flags]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def allowed_licences():
    """The list `allow = [...]` of deny.toml's [licenses]."""
    text = (ROOT / "deny.toml").read_text()
    block = re.search(r"^allow = \[(.*?)^\]", text, re.S | re.M)
    return set(re.findall(r'^\s*"([^"]+)"', block.group(1), re.M)) if block else set()


def acceptable(expression, allowed):
    """Whether a licence expression can be met: AND binds tighter than OR, `/` is an old OR, WITH belongs to its word."""
    words = re.findall(r"\(|\)|[^\s()/]+|/", expression)
    words = ["OR" if word == "/" else word for word in words]

    def either(at):
        value, at = both(at)
        while at < len(words) and words[at] == "OR":
            right, at = both(at + 1)
            value = value or right
        return value, at

    def both(at):
        value, at = one(at)
        while at < len(words) and words[at] == "AND":
            right, at = one(at + 1)
            value = value and right
        return value, at

    def one(at):
        if words[at] == "(":
            value, at = either(at + 1)
            return value, at + 1
        name = words[at]
        if at + 2 < len(words) and words[at + 1] == "WITH":
            return f"{name} WITH {words[at + 2]}" in allowed or name in allowed, at + 3
        return name in allowed, at + 1

    return either(0)[0]


def check_licences():
    allowed = allowed_licences()
    problems = [] if allowed else ["deny.toml: no list of allowed licences found"]
    for package in metadata()["packages"]:
        name = f"{package['name']} {package['version']}"
        if package["name"] in BANNED:
            problems.append(f"{name} is banned: {BANNED[package['name']]}")
        expression = package.get("license")
        if not expression:
            problems.append(f"{name} names no licence")
        elif not acceptable(expression, allowed):
            problems.append(f"{name}: {expression} is not allowed by deny.toml")
    return problems


def check_imports():
    problems = []
    for package in metadata("--no-deps")["packages"]:
        name = package["name"]
        if name not in ALLOWED:
            problems.append(f"{name} is not in the list of imports: add it to scripts/check-tree.py and ARCHITECTURE.md")
            continue
        for dependency in package["dependencies"]:
            imported = dependency["name"]
            # Tests may use more than the product does, but nothing may link the runtime's inside into the manager.
            if dependency["kind"] == "dev" and imported != "croze-container":
                continue
            if imported in ALLOWED and imported not in ALLOWED[name]:
                problems.append(f"{name} must not import {imported}")
    return problems


def check_unsafe():
    problems = []
    for package in metadata("--no-deps")["packages"]:
        if package["name"] == "croze-sys":
            continue
        for target in package["targets"]:
            if not {"lib", "bin"} & set(target["kind"]):
                continue
            source = pathlib.Path(target["src_path"])
            if "#![forbid(unsafe_code)]" not in source.read_text():
                problems.append(f"{source.relative_to(ROOT)}: no #![forbid(unsafe_code)] at its head")
    return problems


def tracked(*patterns):
    """Files below git's control or not yet in it, but not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def check_lengths():
    problems = []
    for path in tracked("*.rs", "*.py", "*.sh", "*.proto"):
        lines = len(path.read_text().splitlines())
        if lines > LONGEST_FILE:
            problems.append(f"{path.relative_to(ROOT)}: {lines} lines, {LONGEST_FILE} are the most")
    return problems


def check_links():
    problems = []
    for path in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if not re.match(r"[a-z]+:", target) and not (path.parent / target).exists():
                problems.append(f"{path.relative_to(ROOT)}: {target} is not there")
    return problems


CHECKS = {
    "licences": check_licences,
    "imports": check_imports,
    "unsafe": check_unsafe,
    "lengths": check_lengths,
    "links": check_links,
}


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    problems = CHECKS[sys.argv[1]]()
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
