#!/usr/bin/python3
"""splitd and splitctl as an operator meets them: options, exit codes, start on a null device, stop by
signals, what is left behind. argv: splitd, splitctl, a valid configuration."""
import fcntl
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

SPLITD, SPLITCTL, DEMO = sys.argv[1:4]


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=30, **options)


class CommandLine(unittest.TestCase):
    def test_version_and_help(self):
        done = run(SPLITD, "--version")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"^splitd \d+\.\d+\.\d+ \(DPDK ")
        done = run(SPLITD, "--help")
        self.assertEqual(done.returncode, 0)
        self.assertIn("usage: splitd", done.stdout)
        done = run(SPLITCTL, "--version")
        self.assertEqual((done.returncode, done.stdout[:9]), (0, "splitctl "))

    def test_bad_command_lines_exit_2(self):
        for options in ([], ["--check"], ["--bogus"], ["-c"], ["-c", DEMO, "more"]):
            done = run(SPLITD, *options)
            self.assertEqual((done.returncode, done.stdout), (2, ""), options)
            self.assertEqual(len(done.stderr.splitlines()), 1, options)
            self.assertRegex(done.stderr, r"^splitd: .*--help\)$", options)
        for options in ([], ["frobnicate"], ["stats", "more"]):
            self.assertEqual(run(SPLITCTL, *options).returncode, 2, options)

    def test_check(self):
        done = run(SPLITD, "--check", "-c", DEMO)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_check_reports_everything_and_exits_1(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "bad.json"
            path.write_text('{\n "bogus": 1,\n "workers": [{"core": "x"}],\n "ports": 7\n}\n')
            done = run(SPLITD, "--check", "-c", str(path))
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"{path}:2: ", done.stderr)
            self.assertIn(f"{path}:3: workers[0].core: ", done.stderr)
            self.assertIn(f"{path}:4: ports: ", done.stderr)
            self.assertEqual(run(SPLITD, "-c", str(path)).returncode, 1)

    def test_no_file_exits_1(self):
        done = run(SPLITD, "--check", "-c", "/nonexistent/splitd.json")
        self.assertEqual(done.returncode, 1)
        self.assertIn("/nonexistent/splitd.json", done.stderr)

    def test_check_reads_manifests(self):
        config = json.loads(pathlib.Path(DEMO).read_text())
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "splitd.json"
            config["services"][0]["manifest"] = f"{directory}/none"
            config["services"][1]["manifest"] = str(path)  # no descriptors
            path.write_text(json.dumps(config))
            for options in (["--check"], []):
                done = run(SPLITD, *options, "-c", str(path))
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                first, second = done.stderr.splitlines()
                self.assertIn(f"{path}: services[0].manifest: {directory}/none: No such file", first)
                self.assertIn(f"{path}: services[1].manifest: {path}: ", second)

    def test_splitctl_without_a_splitd(self):
        done = run(SPLITCTL, "-s", "/nonexistent/socket", "stats")
        self.assertEqual(done.returncode, 1)
        self.assertIn("is splitd running?", done.stderr)


class Daemon(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.directory.name)
        # DPDK's sockets go below it, for root and for others.
        self.environment = dict(os.environ, RUNTIME_DIRECTORY=self.directory.name,
                                XDG_RUNTIME_DIR=self.directory.name)
        self.telemetry = str(self.path / "dpdk" / "splitd-test" / "dpdk_telemetry.v2")
        self.daemons = []

    def tearDown(self):
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.kill()
            daemon.communicate()
        self.directory.cleanup()

    def write(self, **changes):
        config = {
            "eal": {"main_core": 0, "memory": "96MiB", "hugepages": False,
                    "file_prefix": "splitd-test", "devices": ["net_null0"]},
            "workers": [{"core": 0}],
            "idle": {"mode": "adaptive", "sleep_max": "5ms"},
            "ports": [{"name": "p0", "device": "net_null0", "mbufs": 8192,
                       "addresses": ["198.18.0.2/24"]}],
            "listeners": [{"name": "main", "port": 50051, "services": ["*"]}],
            "control": {"socket": str(self.path / "host.sock")},
            "hosts": [{"name": "echo", "uids": [0]}],
            "services": [{"name": "t.Echo", "hosts": ["echo"]}],
            "shutdown": {"drain_timeout": "1s"},
        }
        for key, value in changes.items():
            config[key].update(value) if isinstance(value, dict) else config.update({key: value})
        path = self.path / "splitd.json"
        path.write_text(json.dumps(config, indent=1))
        return str(path)

    def start(self, **changes):
        daemon = subprocess.Popen([SPLITD, "-c", self.write(**changes)], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  env=self.environment)
        self.daemons.append(daemon)
        return daemon

    def ready(self, daemon):
        line = daemon.stdout.readline()
        self.assertTrue(line.startswith("splitd: ready "), line or daemon.stderr.read())
        return line

    def stop(self, daemon, signals=(signal.SIGTERM,)):
        for number in signals:
            daemon.send_signal(number)
            time.sleep(0.05)
        _, errors = daemon.communicate(timeout=20)
        return daemon.returncode, errors

    def test_start_look_stop(self):
        daemon = self.start()
        self.assertIn(f"telemetry={self.telemetry}", self.ready(daemon))
        self.assertTrue((self.path / "host.sock").is_socket())
        done = run(SPLITCTL, "-s", self.telemetry, "--json", "stats")
        self.assertEqual(done.returncode, 0, done.stderr)
        stats = json.loads(done.stdout)
        self.assertEqual(stats["info"]["state"], "running")
        for layer in ("port", "net", "http2", "grpc", "worker", "control"):
            self.assertIn(layer, stats["layers"])
        self.assertIn("p0", run(SPLITCTL, "-s", self.telemetry, "ports").stdout)
        self.assertEqual(run(SPLITCTL, "-s", self.telemetry, "endpoints").returncode, 0)
        rows = json.loads(run(SPLITCTL, "-s", self.telemetry, "--json", "placement").stdout)
        self.assertEqual([r["what"] for r in rows], ["control", "worker", "port"])
        self.assertEqual(rows[1]["core"], json.loads((self.path / "splitd.json").read_text())["workers"][0]["core"])
        self.assertGreaterEqual(rows[1]["node"], 0)
        shared = rows[0]["core"] == rows[1]["core"]
        self.assertEqual("shares core" in rows[0]["warning"], shared)
        self.assertEqual("poor: control" in run(SPLITCTL, "-s", self.telemetry, "placement").stdout, shared)
        self.assertIn(f"pid {daemon.pid}", run(SPLITCTL, "-s", self.telemetry, "version").stdout)
        done = run(SPLITCTL, "-s", self.telemetry, "-l", "nonsense", "stats")
        self.assertEqual(done.returncode, 1)
        code, errors = self.stop(daemon, (signal.SIGHUP, signal.SIGTERM))
        self.assertEqual(code, 0, errors)
        self.assertIn("reload: ", errors)
        self.assertIn("stopped: every call has ended", errors)
        self.assertEqual(sorted(p.name for p in self.path.rglob("*")), ["dpdk", "splitd.json"])

    def test_the_service_manager_is_told(self):
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.bind(str(self.path / "notify"))
        manager.settimeout(20)
        self.environment["NOTIFY_SOCKET"] = str(self.path / "notify")
        daemon = self.start()
        self.ready(daemon)
        told = [manager.recv(256).decode()]
        self.assertEqual(run(SPLITCTL, "-s", self.telemetry, "reload").returncode, 0)
        told += [manager.recv(256).decode(), manager.recv(256).decode()]
        self.assertEqual(self.stop(daemon)[0], 0)
        told.append(manager.recv(256).decode())
        self.assertEqual([t.split("\n")[0] for t in told], ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"])
        for text in told:
            self.assertRegex(text, r"\nMONOTONIC_USEC=\d+$")

    @unittest.skipUnless(os.geteuid() == 0 and os.path.exists("/dev/net/tun"), "needs root and TAP devices")
    def test_a_tap_interface_has_one_owner(self):
        name = f"sdtest{os.getpid() % 10000}"
        with open("/dev/net/tun", "r+b", buffering=0) as other:
            # TUNSETIFF with IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE, as the driver does it
            fcntl.ioctl(other, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000 | 0x0100))
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
            daemon = self.start(eal={"devices": [f"net_tap0,iface={name}"]},
                                ports=[{"name": "p0", "device": "net_tap0", "mbufs": 8192, "addresses": ["198.18.0.2/24"]}])
            output, errors = daemon.communicate(timeout=20)
            self.assertEqual((daemon.returncode, output), (3, ""), errors)
            self.assertIn(f"eal.devices[0]: another process has the interface {name}", errors.splitlines()[-1])

    def test_sigint_stops_too(self):
        daemon = self.start()
        self.ready(daemon)
        self.assertEqual(self.stop(daemon, (signal.SIGINT,))[0], 0)

    def test_two_instances_keep_apart(self):
        daemon = self.start()
        self.ready(daemon)
        second = self.start()
        _, errors = second.communicate(timeout=20)
        self.assertEqual(second.returncode, 3)
        self.assertIn('"splitd-test" is in use', errors)
        second = self.start(eal={"file_prefix": "splitd-test2"})
        _, errors = second.communicate(timeout=20)
        self.assertEqual(second.returncode, 3)
        self.assertIn("another process listens there", errors)
        self.assertEqual(self.stop(daemon)[0], 0)

    def test_a_stale_socket_is_replaced(self):
        daemon = self.start()
        self.ready(daemon)
        daemon.kill()
        daemon.wait()
        self.assertTrue((self.path / "host.sock").is_socket())
        daemon = self.start()
        self.ready(daemon)
        self.assertEqual(self.stop(daemon)[0], 0)

    def test_what_cannot_start_exits_3(self):
        cases = (
            ({"eal": {"args": ["--bogus-eal-argument"]}}, "DPDK could not be started"),
            ({"eal": {"hugepages": True, "hugepages_fallback": False, "memory": "500GiB"}},
             "MiB of hugepages"),
            ({"control": {"socket": str(self.path / "a" / "b" / "host.sock")}},
             "directory is missing"),
            ({"control": {"socket": str(self.path / "splitd.json")}}, "no socket"),
        )
        for changes, text in cases:
            with self.subTest(text):
                daemon = self.start(**changes)
                output, errors = daemon.communicate(timeout=20)
                self.assertEqual((daemon.returncode, output), (3, ""), errors)
                self.assertIn(text, errors.splitlines()[-1])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
