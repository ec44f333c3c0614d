#!/usr/bin/env python3
"""Power cuts in the middle of pulls. power-cuts.sh runs this: `make` on the host, `guest` in the virtual machine, `draw` and `learn` between boots.

    make DIR                    writes images as a registry serves them: manifests and blobs as files
    draw STATE SEED             prints what the next boot is told: when the power goes, and in which state each image must be
    learn STATE OUTPUT          takes over what the guest said it had been told by the daemon
    guest DIR BIN WORDS         mounts the kept disk, starts the daemon, verifies the store, pulls and removes until the power goes

What was answered must be in force after the next boot; what was under way is in force or not. Each layer that an image names is verified: its blob
against the digest it is named by, the uncompressed blob against the layer's diff id, its tree against what the blob unpacks to.
"""

import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import time

PORT = 5000
NAMES = [f"cut/image-{n}" for n in range(4)]
OWN_LAYERS = 2
SHARED_LAYERS = 2
MEDIA = "application/vnd.oci.image."
# How fast the registry sends: a pull is to take some seconds.
PIECE, REST = 16 << 10, 0.01
DISK, DATA = "/dev/vdb", "/mnt"
ROOT, RUN = DATA + "/lib", "/run/cuts"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def a_layer(name, draw):
    """A tar of some hundred files, and what gzip makes of it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for n in range(120):
            entry = tarfile.TarInfo(f"{name}/{n % 7}/file-{n}")
            data = draw.randbytes(draw.randrange(6000))
            entry.size, entry.mode, entry.mtime, entry.uid = len(data), 0o640, 1700000000 + n, n % 5
            tar.addfile(entry, io.BytesIO(data))
        for n in range(10):
            link = tarfile.TarInfo(f"{name}/link-{n}")
            link.type, link.linkname = tarfile.SYMTYPE, f"0/file-{7 * n}"
            tar.addfile(link)
            hard = tarfile.TarInfo(f"{name}/hard-{n}")
            hard.type, hard.linkname = tarfile.LNKTYPE, f"{name}/0/file-{7 * n}"
            tar.addfile(hard)
    plain = out.getvalue()
    return plain, gzip.compress(plain, 1, mtime=0)


def make(directory):
    draw = random.Random(1)
    blobs = directory / "blobs"
    blobs.mkdir(parents=True)

    def store(data):
        (blobs / digest(data)).write_bytes(data)
        return {"digest": digest(data), "size": len(data)}

    shared = [a_layer(f"shared-{n}", draw) for n in range(SHARED_LAYERS)]
    for name in NAMES:
        layers = shared + [a_layer(f"{name.split('/')[1]}-{n}", draw) for n in range(OWN_LAYERS)]
        config = {
            "architecture": "amd64", "os": "linux", "config": {"Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": [digest(plain) for plain, _ in layers]},
        }
        manifest = {
            "schemaVersion": 2, "mediaType": MEDIA + "manifest.v1+json",
            "config": {"mediaType": MEDIA + "config.v1+json", **store(json.dumps(config).encode())},
            "layers": [{"mediaType": MEDIA + "layer.v1.tar+gzip", **store(packed)} for _, packed in layers],
        }
        path = directory / "manifests" / name
        path.mkdir(parents=True)
        (path / "latest").write_text(json.dumps(manifest))


class Registry(http.server.BaseHTTPRequestHandler):
    """Serves what `make` wrote, slowly."""

    directory = None
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = self.path.removeprefix("/v2/").split("/")
        kind, what, name = parts[-2] if len(parts) > 1 else "", parts[-1], "/".join(parts[:-2])
        path = self.directory / ("blobs/" + what if kind == "blobs" else f"manifests/{name}/{what}")
        if kind not in ("blobs", "manifests") or not path.is_file():
            self.send_response(200 if self.path == "/v2/" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", MEDIA + "manifest.v1+json" if kind == "manifests" else "application/octet-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for at in range(0, len(data), PIECE):
            self.wfile.write(data[at:at + PIECE])
            time.sleep(REST)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def serve(directory):
    Registry.directory = directory
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Registry)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()


def say(*words):
    print(*words, flush=True)


class Wrong(Exception):
    """Something that a power cut must not do."""


class Daemon:
    def __init__(self, binaries):
        self.bin = binaries
        self.socket = RUN + "/croze.sock"
        os.makedirs(RUN, exist_ok=True)
        self.log = open(RUN + "/log", "wb")
        self.process = subprocess.Popen(
            [binaries / "crozed", "--root", ROOT, "--run-root", RUN, "--socket", self.socket, "--bridge", "cuts0",
             "--runtime", binaries / "croze-rt", "--shim", binaries / "croze-shim", "--init", binaries / "croze-init"],
            stdout=self.log, stderr=self.log)
        until = time.monotonic() + 120
        while self.croze("version").returncode != 0:
            if self.process.poll() is not None or time.monotonic() > until:
                raise Wrong("the daemon does not start: " + pathlib.Path(RUN + "/log").read_text()[-3000:])
            time.sleep(0.2)

    def croze(self, *words):
        command = [self.bin / "croze", "--host", "unix://" + self.socket, *words]
        return subprocess.run(command, capture_output=True, text=True)


def tree_of(path):
    """Every path below with what it is."""
    found = {}
    for parent, directories, files in os.walk(path):
        for name in directories + files:
            full = os.path.join(parent, name)
            is_ = os.lstat(full)
            what = [oct(is_.st_mode), is_.st_uid, is_.st_gid]
            if os.path.islink(full):
                what.append(os.readlink(full))
            elif os.path.isfile(full):
                with open(full, "rb") as file:
                    what += [digest(file.read()), is_.st_mtime_ns, is_.st_nlink]
            found[os.path.relpath(full, path)] = what
    return found


def records(kind):
    directory = pathlib.Path(ROOT, kind)
    return [json.loads(path.read_text())["record"] for path in directory.glob("*.json")]


def verify_layer(diff_id, blob):
    data = pathlib.Path(ROOT, "content/blobs/sha256", blob.removeprefix("sha256:")).read_bytes()
    if digest(data) != blob:
        raise Wrong(f"blob {blob} is {digest(data)}")
    # The image that the daemon brings itself is not compressed.
    plain = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    if digest(plain) != diff_id:
        raise Wrong(f"layer {diff_id} is {digest(plain)}")
    reference = pathlib.Path("/tmp/reference")
    shutil.rmtree(reference, ignore_errors=True)
    reference.mkdir()
    subprocess.run(["tar", "-xpf", "-", "-C", reference], input=plain, check=True)
    place = pathlib.Path(ROOT, "snapshots/layers", diff_id.removeprefix("sha256:"), "fs")
    expected, found = tree_of(reference), tree_of(place)
    # Directories have no entries in these archives: what mode they get is the unpacker's own affair.
    plain_files = {path: what for path, what in expected.items() if not what[0].startswith("0o4")}
    for path in expected.keys() | found.keys():
        if path not in found or path not in expected or (path in plain_files and found[path] != expected[path]):
            raise Wrong(f"layer {diff_id}: {path} is {found.get(path)} instead of {expected.get(path)}")


def verify(daemon, expected):
    """The store is whole, and each image is there or not as it must be."""
    listed = daemon.croze("images", "--format", "{{.Repository}}")
    if listed.returncode:
        raise Wrong("croze images: " + listed.stderr)
    present = {name for name in NAMES if any(line.endswith(name) for line in listed.stdout.splitlines())}
    for name, state in expected.items():
        if state != "either" and (name in present) != (state == "present"):
            raise Wrong(f"{name} is to be {state}, and there are {sorted(present)}")
    layers, blobs = set(), 0
    for image in records("images"):
        for layer in image["layers"]:
            layers.add((layer["diff_id"], layer["blob"]))
    for diff_id, blob in sorted(layers):
        verify_layer(diff_id, blob)
    for path in pathlib.Path(ROOT, "content/blobs/sha256").iterdir():
        blobs += 1
        if digest(path.read_bytes()) != "sha256:" + path.name:
            raise Wrong(f"blob {path.name} is damaged")
    named = {diff_id.removeprefix("sha256:") for diff_id, _ in layers}
    there = {path.name for path in pathlib.Path(ROOT, "snapshots/layers").iterdir()}
    if there != named:
        raise Wrong(f"layers that no image names: {there - named}; layers that are not there: {named - there}")
    for path in ("content/ingest", "snapshots/staging"):
        left = os.listdir(os.path.join(ROOT, path))
        if left:
            raise Wrong(f"{path} holds {left}")
    say("verified", len(present), "images,", len(layers), "layers,", blobs, "blobs")
    for name in NAMES:
        say("found", name, "present" if name in present else "absent")
    return present


def cut_in(seconds):
    def cut():
        say("cut")
        subprocess.run(["power-cut"])

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()


def guest(directory, binaries, words):
    told = json.loads(words)
    if subprocess.run(["blkid", DISK], capture_output=True).returncode:
        subprocess.run(["mkfs.ext4", "-q", DISK], check=True)
    subprocess.run(["mount", DISK, DATA], check=True)
    serve(directory)
    daemon = Daemon(binaries)
    present = verify(daemon, told["expected"])
    draw = random.Random(told["seed"])
    if told["seconds"] is None:
        return
    cut_in(told["seconds"])

    def play(names):
        draw = random.Random(names[0] + str(told["seed"]))
        while True:
            name = draw.choice(names)
            verb = "rmi" if name in present else "pull"
            say("begin", verb, name)
            answer = daemon.croze(verb, f"127.0.0.1:{PORT}/{name}")
            if answer.returncode:
                raise Wrong(f"{verb} {name}: {answer.stderr}")
            present.symmetric_difference_update({name})
            say("done", verb, name)

    # Two at a time, each with images of its own.
    draw.random()
    other = threading.Thread(target=play, args=(NAMES[2:],), daemon=True)
    other.start()
    play(NAMES[:2])


def draw_next(state_path, seed, last):
    state = json.loads(state_path.read_text()) if state_path.exists() else {"boots": 0, "expected": {}}
    state["boots"] += 1
    state_path.write_text(json.dumps(state))
    draw = random.Random(f"{seed}-{state['boots']}")
    seconds = None if last else round(draw.uniform(0, draw.choice([3, 15, 45])), 3)
    expected = state["expected"] or {name: "absent" for name in NAMES}
    print(json.dumps({"seed": seed + state["boots"], "seconds": seconds, "expected": expected}))


def learn(state_path, output):
    state = json.loads(state_path.read_text())
    expected = {name: "either" for name in NAMES}
    for line in output.read_text(errors="replace").splitlines():
        match line.split():
            case ["found", name, what] if name in expected:
                expected[name] = what
            case ["begin", _, name] if name in expected:
                expected[name] = "either"
            case ["done", verb, name] if name in expected:
                expected[name] = "present" if verb == "pull" else "absent"
    state["expected"] = expected
    state_path.write_text(json.dumps(state))


def main():
    verb, *rest = sys.argv[1:]
    if verb == "make":
        make(pathlib.Path(rest[0]))
    elif verb == "draw":
        draw_next(pathlib.Path(rest[0]), int(rest[1]), len(rest) > 2)
    elif verb == "learn":
        learn(pathlib.Path(rest[0]), pathlib.Path(rest[1]))
    else:
        try:
            guest(pathlib.Path(rest[0]), pathlib.Path(rest[1]), rest[2])
        except Wrong as wrong:
            say("WRONG:", wrong)
            sys.exit(1)


if __name__ == "__main__":
    main()
