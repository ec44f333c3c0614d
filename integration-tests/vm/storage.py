#!/usr/bin/env python3
"""Containers with --storage-opt, by the whole daemon, on an ext4 and on an xfs. suite.sh runs this in the guest: storage.py BIN

Each file system lies in a file of its own and is mounted three times: with project quotas, with them and a default for all containers, and
without them. A registry of one image (busybox) is served from here.
"""

import contextlib
import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time

PORT = 5000
IMAGE = f"127.0.0.1:{PORT}/busybox"
MEDIA = "application/vnd.oci.image."
WORK = pathlib.Path("/var/tmp/storage")
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F", "-O", "project,quota"], "xfs": ["mkfs.xfs", "-q", "-f"]}
OVER = ("Disk quota exceeded", "No space left on device")
WRITE = "dd if=/dev/zero of=/large bs=1M count=%d conv=fsync 2>&1; echo code $?; wc -c </large"


class Wrong(Exception):
    pass


def check(holds, *words):
    if not holds:
        raise Wrong(" ".join(map(str, words)))


def run(*command):
    subprocess.run([str(word) for word in command], check=True)


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image():
    """Blobs and the manifest of an image that is busybox with its names."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        program = tarfile.TarInfo("bin/busybox")
        data = pathlib.Path("/bin/busybox").read_bytes()
        program.size, program.mode = len(data), 0o755
        tar.addfile(program, io.BytesIO(data))
        for name in ("sh", "dd", "df", "wc", "sleep", "touch", "seq", "cat", "rm"):
            link = tarfile.TarInfo("bin/" + name)
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    layer = out.getvalue()
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }).encode()

    def descriptor(kind, data):
        return {"mediaType": MEDIA + kind, "digest": digest(data), "size": len(data)}

    manifest = {
        "schemaVersion": 2, "mediaType": MEDIA + "manifest.v1+json",
        "config": descriptor("config.v1+json", config), "layers": [descriptor("layer.v1.tar", layer)],
    }
    return {digest(layer): layer, digest(config): config}, json.dumps(manifest).encode()


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    blobs, manifest = image()

    def do_GET(self):
        parts = self.path.split("/")
        kind = MEDIA + "manifest.v1+json"
        if parts[-2:-1] == ["blobs"]:
            data, kind = self.blobs.get(parts[-1]), "application/octet-stream"
        else:
            data = self.manifest if "manifests" in parts else b""
        self.send_response(200 if data is not None else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *_):
        pass


class Daemon:
    def __init__(self, bin_, root, run_root, configuration=""):
        self.bin, self.root, self.run_root = bin_, root, run_root
        run_root.mkdir(parents=True, exist_ok=True)
        self.socket = run_root / "croze.sock"
        self.file = run_root / "croze.toml"
        self.file.write_text(configuration)
        self.start()

    def start(self):
        self.log = open(str(self.run_root) + ".log", "wb")
        self.process = subprocess.Popen(
            [self.bin / "crozed", "--config", self.file, "--root", self.root, "--run-root", self.run_root, "--socket", self.socket,
             "--default-network", "none", "--runtime", self.bin / "croze-rt", "--shim", self.bin / "croze-shim",
             "--init", self.bin / "croze-init"], stdout=self.log, stderr=self.log)
        until = time.monotonic() + 120
        while self.croze("version").returncode != 0:
            if self.process.poll() is not None or time.monotonic() > until:
                raise Wrong("the daemon does not start: " + self.said())
            time.sleep(0.2)

    def said(self):
        return pathlib.Path(self.log.name).read_text()[-3000:]

    def croze(self, *words):
        command = [self.bin / "croze", "--host", f"unix://{self.socket}", *words]
        return subprocess.run(command, capture_output=True, text=True)

    def ok(self, *words):
        result = self.croze(*words)
        check(result.returncode == 0, words, result.returncode, result.stdout, result.stderr, self.said())
        return result.stdout.strip()

    def sh(self, container, script):
        return self.ok("exec", container, "sh", "-c", script)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        check(self.process.wait(60) == 0, "the daemon ends with an error:", self.said())


@contextlib.contextmanager
def disk(kind, options):
    """The file system of this kind, which is made when it is not there."""
    file, point = WORK / kind, WORK / ("on-" + kind)
    if not file.exists():
        with open(file, "wb") as image_file:
            image_file.truncate(600 << 20)
        run(*MKFS[kind], file)
    point.mkdir(exist_ok=True)
    run("mount", "-t", kind, "-o", "loop" + options, file, point)
    try:
        yield point
    except BaseException:
        run("umount", "--lazy", point)
        raise
    run("umount", point)


def kilobytes(daemon, container):
    """What df says of the size of its root."""
    return int(daemon.sh(container, "df -k /").splitlines()[-1].split()[1])


def is_limited(daemon, container, mebibytes):
    output = daemon.sh(container, WRITE % (mebibytes + 10))
    written = int(output.splitlines()[-1])
    check(any(words in output for words in OVER), "more could be written than", mebibytes, output)
    check((mebibytes - 4) << 20 <= written <= mebibytes << 20, "written:", written, output)


def with_quotas(bin_, kind, run_root):
    with disk(kind, ",prjquota") as point:
        daemon = Daemon(bin_, point / "lib", run_root)
        daemon.ok("pull", IMAGE)
        limits = ["--storage-opt", "size=20M", "--storage-opt", "inodes=500"]
        daemon.ok("run", "-d", "--name", "small", *limits, IMAGE)
        daemon.ok("run", "-d", "--name", "free", IMAGE)
        options = daemon.ok("inspect", "--format", "{{json .HostConfig.StorageOpt}}", "small")
        check(json.loads(options) == {"size": "20M", "inodes": "500"}, options)
        check(daemon.ok("inspect", "--format", "{{json .HostConfig.StorageOpt}}", "free") == "null")
        check(kilobytes(daemon, "small") == 20 << 10, "df says", kilobytes(daemon, "small"))
        is_limited(daemon, "small", 20)
        # Others have room; one that is not limited has all of it.
        check("code 0" in daemon.sh("free", WRITE % 40))
        check(kilobytes(daemon, "free") > 300 << 10)
        # Every capability is none against an overlay's limit, as long as it is written.
        daemon.ok("run", "-d", "--privileged", "--name", "strong", "--storage-opt", "size=10M", IMAGE)
        is_limited(daemon, "strong", 10)
        daemon.ok("rm", "-f", "strong")
        daemon.sh("small", "rm /large")
        made = daemon.sh("small", "for n in $(seq 600); do touch /$n 2>/dev/null || { echo $n; break; }; done")
        check(made and 400 < int(made) <= 500, "files:", made)

        # The limit is the kernel's: it outlives the daemon, and a start.
        daemon.kill()
        daemon.start()
        check("refused" in daemon.sh("small", "touch /x 2>/dev/null || echo refused"))
        # It has taken all it may, and starts.
        daemon.ok("stop", "-t", "1", "small")
        daemon.ok("start", "small")
        check("refused" in daemon.sh("small", "touch /x 2>/dev/null || echo refused"))
        daemon.sh("small", "rm -f /??")
        is_limited(daemon, "small", 20)
        sizes = daemon.ok("ps", "-s", "--format", "{{.Names}} {{.Size}}")
        check("small 2" in sizes and "MB" in sizes, sizes)
        daemon.ok("run", "--rm", "--read-only", "--storage-opt", "size=1M", IMAGE, "df")
        wrong = daemon.croze("create", "--storage-opt", "size=ten", IMAGE)
        check(wrong.returncode == 125 and "such as 64m" in wrong.stderr, wrong)
        daemon.ok("rm", "-f", "small", "free")
        check(not list((point / "lib/snapshots/active").iterdir()) and not list((point / "lib/snapshots/staging").iterdir()))
        daemon.ok("create", "--name", "later", "--storage-opt", "size=20M", IMAGE)
        daemon.stop()


def with_a_default(bin_, kind, run_root):
    with disk(kind, ",prjquota") as point:
        daemon = Daemon(bin_, point / "lib", run_root, '[storage-opt]\nsize = "10M"\n')
        daemon.ok("run", "-d", "--name", "default", IMAGE)
        daemon.ok("run", "-d", "--name", "own", "--storage-opt", "size=30M", IMAGE)
        daemon.ok("run", "-d", "--name", "none", "--storage-opt", "size=0", IMAGE)
        daemon.ok("start", "later")
        found = [kilobytes(daemon, name) for name in ("default", "own", "none", "later")]
        check(found[:2] + found[3:] == [10 << 10, 30 << 10, 20 << 10] and found[2] > 300 << 10, found)
        is_limited(daemon, "default", 10)
        shown = [daemon.ok("inspect", "--format", "{{json .HostConfig.StorageOpt}}", name) for name in ("default", "own", "none")]
        check([json.loads(text) for text in shown] == [{"size": str(10 << 20)}, {"size": "30M"}, {"size": "0"}], shown)
        daemon.ok("rm", "-f", "default", "own", "none")
        daemon.ok("stop", "-t", "1", "later")
        daemon.stop()


def without_quotas(bin_, kind, run_root):
    with disk(kind, "") as point:
        daemon = Daemon(bin_, point / "lib", run_root)
        for words in (["create", "--storage-opt", "size=1G", IMAGE], ["start", "later"]):
            refused = daemon.croze(*words)
            check(refused.returncode != 0 and "mounted without prjquota" in refused.stderr, words, refused)
            check(f"{kind} on /dev/loop" in refused.stderr and f"mounted at {point}" in refused.stderr, words, refused)
        check(daemon.ok("ps", "-aq").count("\n") == 0, "nothing is left of what failed")
        daemon.ok("run", "--rm", IMAGE, "df")
        daemon.stop()
        try:
            Daemon(bin_, point / "lib", run_root, '[storage-opt]\nsize = "10M"\n')
            raise Wrong("a daemon whose limits cannot be kept has started")
        except Wrong as wrong:
            check("mounted without prjquota" in str(wrong), wrong)


def main():
    bin_ = pathlib.Path(sys.argv[1])
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    failed = False
    for kind in MKFS:
        for part in (with_quotas, with_a_default, without_quotas):
            started = time.monotonic()
            try:
                part(bin_, kind, pathlib.Path(f"/run/storage-{kind}"))
                verdict = "ok"
            except (Wrong, OSError, ValueError, subprocess.SubprocessError) as error:
                failed, verdict = True, f"FAIL: {error}"
            print(f"{kind} {part.__name__}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
            if failed:
                # What it left mounted is in the next one's way.
                sys.exit(1)
    os.sync()


if __name__ == "__main__":
    main()
