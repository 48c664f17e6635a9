"""splitd and an example, up in a namespace for the length of a `with` block: what every end-to-end test stands on."""
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77  # meson's and automake's word for "skipped"


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def need_kernel(port="tap"):
    """Skips, naming the feature, where the kernel lacks what `port` stands on."""
    if os.geteuid() != 0:
        skip("needs root for network namespaces")
    name = f"splitd-try-{os.getpid()}"
    run = lambda *a: subprocess.run(a, capture_output=True).returncode == 0
    if not run("ip", "netns", "add", name):
        skip("kernel feature missing: network namespaces")
    try:
        if port == "tap" and not pathlib.Path("/dev/net/tun").exists():
            skip("kernel feature missing: TUN/TAP (/dev/net/tun)")
        if port != "tap" and not run(str(ROOT / "scripts/in-netns"), name, "ip", "link", "add", "a0", "type", "veth", "peer", "name", "b0"):
            skip("kernel feature missing: veth")
        if port == "af_xdp":
            import socket
            try:
                socket.socket(44, socket.SOCK_RAW).close()  # AF_XDP
            except OSError:
                skip("kernel feature missing: AF_XDP sockets")
    finally:
        run("ip", "netns", "del", name)


class Served:
    """`with Served(build, "echo", port="tap") as s: s.run([...])`. Leaving the block checks that all is gone."""

    def __init__(self, build, example, port="tap", config=None, options=(), seconds=90, env=None):
        self.build = pathlib.Path(build).resolve()
        self.command = [str(ROOT / "scripts/serve.sh"), example, "--port", port, "--no-setup", "--build", str(self.build), *options]
        if config is not None:
            self.command += ["--config", str(config)]
        self.seconds, self.env = seconds, env
        self.log = tempfile.NamedTemporaryFile("w+", prefix="splitd-e2e.", suffix=".log")
        self.extra = []

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env={**os.environ, **(self.env or {})})
        ready, _, _ = select.select([self.process.stdout], [], [], self.seconds)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("ready "):
            self.stop()
            raise RuntimeError(f"serve.sh said {line!r}\n{self.log_text()}")
        self.facts = dict(word.split("=", 1) for word in line.split()[1:])
        self.netns, self.target = self.facts["netns"], f"{self.facts['address']}:{self.facts['port']}"
        self.splitd, self.host = int(self.facts["splitd"]), int(self.facts["host"])
        return self

    def inside(self, command):
        return [str(ROOT / "scripts/in-netns"), self.netns, *map(str, command)]

    def run(self, command, timeout=300, check=True, **more):
        """Runs `command` in the namespace; its output as text. Raises with that output when it fails."""
        done = subprocess.run(self.inside(command), capture_output=True, text=True, timeout=timeout, **more)
        if check and done.returncode != 0:
            raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}\n{self.log_text()}")
        return done

    def start(self, command, **more):
        """Starts `command` in the namespace; ended with the block."""
        process = subprocess.Popen(self.inside(command), **more)
        self.extra.append(process)
        return process

    def stats(self):
        """splitd's counters, {"layer.name": sum over workers}, by splitctl."""
        text = subprocess.run([str(self.build / "ctl/splitctl"), "--prefix", self.facts["prefix"], "--json", "--all", "stats"],
                              capture_output=True, text=True, timeout=30, check=True).stdout
        return {f"{layer}.{name}": value["total"] for layer, counters in json.loads(text)["layers"].items()
                for name, value in counters.items()}

    def log_text(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def alive(self):
        return pathlib.Path(f"/proc/{self.splitd}").exists()

    def stop(self):
        for process in self.extra:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def __exit__(self, kind, value, trace):
        status = self.stop()
        if kind is not None:
            print(self.log_text(), file=sys.stderr)
            return False
        left = []
        if status != 0:
            left.append(f"serve.sh ended with {status}")
        if self.netns in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split():
            left.append(f"namespace {self.netns} is still there")
        for name, pid in (("splitd", self.splitd), ("host", self.host)):
            if pathlib.Path(f"/proc/{pid}").exists():
                left.append(f"{name} ({pid}) still runs")
        if pathlib.Path(self.facts["socket"]).parent.exists():
            left.append("the work folder is still there")
        if left:
            raise RuntimeError("; ".join(left) + "\n" + self.log_text())
        return False


def wait_until(condition, seconds, what):
    """Polls `condition` (bounded); raises naming `what` when it never held."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise RuntimeError(f"not within {seconds} s: {what}")
