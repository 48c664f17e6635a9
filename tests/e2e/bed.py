"""A namespace in which a test starts, stops, kills and restarts splitd and hosts by itself.

served.py is the comfortable way (scripts/serve.sh: one splitd, one example, up for a block). A Bed is for the tests
whose subject is what happens when these come and go.
"""
import json
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import time

from served import ROOT, wait_until

ADDRESS, CLIENT, TCP_PORT = "198.18.0.2", "198.18.0.1", 50051


def demo_config():
    return json.loads((ROOT / "config/demo.json").read_text())


def hugepages_free():
    for line in open("/proc/meminfo"):
        if line.startswith("HugePages_Free"):
            return int(line.split()[1])
    return 0


class Bed:
    """`with Bed(build) as bed: bed.splitd_start(); bed.host_start("echo"); ...`"""

    def __init__(self, build, config=None, port="af_packet"):
        self.build, self.port = pathlib.Path(build).resolve(), port
        self.config = config if config is not None else demo_config()
        self.netns = f"splitd-bed-{os.getpid()}"
        self.prefix = self.netns
        self.target = f"{ADDRESS}:{TCP_PORT}"
        self.splitd, self.hosts, self.others = None, [], []

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="splitd-bed.")
        self.work = pathlib.Path(self.folder.name)
        self.socket = self.work / "host.sock"
        self.log = open(self.work / "log", "w+")
        inside = lambda *a: subprocess.run(self.inside(a), check=True)
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        inside("ip", "link", "set", "lo", "up")
        if self.port == "tap":
            device = "net_tap0,iface=sd0"
        else:
            inside("ip", "link", "add", "cl0", "type", "veth", "peer", "name", "sd0")
            for name in ("cl0", "sd0"):
                quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                subprocess.run(self.inside(["sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1"]), **quiet)
                subprocess.run(self.inside(["ethtool", "-K", name, "tx", "off"]), **quiet)
                inside("ip", "link", "set", name, "up")
            inside("ip", "addr", "add", f"{CLIENT}/24", "dev", "cl0")
            device = {"af_packet": "net_af_packet0,iface=sd0",
                      "af_xdp": "net_af_xdp0,iface=sd0,start_queue=0,queue_count=1,busy_budget=0"}[self.port]
        self.config["eal"].update(devices=[device], file_prefix=self.prefix)
        self.config["ports"][0]["device"] = device.split(",")[0]
        self.config["control"]["socket"] = str(self.socket)
        return self

    def inside(self, command):
        return [str(ROOT / "scripts/in-netns"), self.netns, *map(str, command)]

    def splitd_start(self):
        path = self.work / "splitd.json"
        path.write_text(json.dumps(self.config))
        out = open(self.work / "splitd.out", "w")
        self.splitd = subprocess.Popen(self.inside([self.build / "daemon/splitd", "-c", path]), stdout=out, stderr=self.log)
        out.close()
        wait_until(lambda: "splitd: ready" in (self.work / "splitd.out").read_text() or self.ended("splitd"), 60, "splitd ready")
        if self.port == "tap":
            for command in (["ethtool", "-K", "sd0", "tx", "off"], ["ip", "addr", "add", f"{CLIENT}/24", "dev", "sd0"],
                            ["ip", "link", "set", "sd0", "up"]):
                subprocess.run(self.inside(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self.splitd

    def ended(self, who):
        status = self.splitd.poll()
        if status is not None:
            raise RuntimeError(f"{who} ended with {status}:\n{self.log_text()}")
        return False

    def splitd_stop(self, signum=signal.SIGTERM, seconds=120):
        """Ends splitd and returns its exit status."""
        self.splitd.send_signal(signum)
        status = self.splitd.wait(seconds)
        self.splitd = None
        return status

    def line(self, process, seconds, what):
        """The next line of a process's standard output; raises with the log when none comes."""
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        text = process.stdout.readline() if ready else ""
        if not text:
            raise RuntimeError(f"{what} said nothing within {seconds} s (exit status {process.poll()}):\n{self.log_text()}")
        return text

    def host_start(self, name, program="echo", wait=True, args=(), **more):
        """Starts an example (or any program with its options) as host `name`; with `wait`, until it is attached."""
        path = program if "/" in str(program) else self.build / "examples" / program
        host = subprocess.Popen([str(path), "--socket", str(self.socket), "--name", name, *args], stdout=subprocess.PIPE,
                                stderr=self.log, text=True, **more)
        self.hosts.append(host)
        if wait:
            line = self.line(host, 60, f"host {name}")
            if not line.startswith("attached"):
                raise RuntimeError(f"host {name} said {line!r}:\n{self.log_text()}")
        return host

    def probe(self, example="echo", seconds=20):
        return subprocess.run(self.inside([ROOT / "tests/e2e/probe.py", self.target, example, "--seconds", str(seconds)])).returncode == 0

    def start(self, command, **more):
        process = subprocess.Popen(self.inside(command), **more)
        self.others.append(process)
        return process

    def ctl(self, what):
        """splitctl's answer. A busy machine may let its few seconds pass: that alone is no failure."""
        for _ in range(10):
            done = subprocess.run([str(self.build / "ctl/splitctl"), "--prefix", self.prefix, "--json", *what.split()],
                                  capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                return json.loads(done.stdout)
            self.ended("splitd")
            time.sleep(0.5)
        raise RuntimeError(f"splitctl {what}: {done.stderr}\n{self.log_text()}")

    def reload(self, config):
        """(exit status of splitctl reload, what it said)"""
        (self.work / "splitd.json").write_text(json.dumps(config))
        done = subprocess.run([str(self.build / "ctl/splitctl"), "--prefix", self.prefix, "reload"], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def counters(self):
        """{"layer.counter": total}"""
        layers = self.ctl("--all stats")["layers"]
        return {f"{layer}.{name}": value["total"] for layer, counters in layers.items() for name, value in counters.items()}

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.splitd.pid}/fd"))

    def segments(self):
        """How many segments of hosts splitd has mapped (two for each host)."""
        return sum("memfd:splitd-" in line for line in open(f"/proc/{self.splitd.pid}/maps"))

    def resident_kib(self):
        for line in open(f"/proc/{self.splitd.pid}/status"):
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        return 0

    def log_text(self):
        self.log.flush()
        return (self.work / "log").read_text()

    def __exit__(self, kind, value, trace):
        if kind is not None:
            print(self.log_text()[-8000:])
            try:  # what went wrong on a machine one cannot look at
                print("counters:", {k: v for k, v in self.counters().items() if v})
            except Exception as e:
                print(f"no counters: {e}")
        for process in self.others + self.hosts + ([self.splitd] if self.splitd else []):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        subprocess.run(["ip", "netns", "del", self.netns], check=False)
        self.log.close()
        self.folder.cleanup()
        return False


def settled(bed, seconds=15):
    """Waits until no call, connection or page of work is left in splitd."""
    def quiet():
        c = bed.counters()
        return all(c[k] == 0 for k in ("worker.gauge_calls", "worker.gauge_queued", "worker.gauge_pages"))
    wait_until(quiet, seconds, "splitd holds no call, no queued call and no page")
    time.sleep(0.1)
