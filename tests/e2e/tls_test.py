#!/usr/bin/python3
"""TLS end to end: tls_test.py BUILD. Stock clients (grpcio, openssl s_client, Python's ssl, h2load) against splitd."""
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import certs  # noqa: E402
import raw_grpc  # noqa: E402
import raw_frames  # noqa: E402
import served  # noqa: E402

ROOT = served.ROOT
NAME = "server.test.example"
CLIENT = str(ROOT / "tests/e2e/tls_client.py")


def check(what, good):
    if not good:
        raise AssertionError(what)


def configuration(folder, listener_tls, services=None, **more):
    """config/demo.json with this TLS on its listener."""
    config = json.loads((ROOT / "config/demo.json").read_text())
    config["listeners"][0]["tls"] = listener_tls
    for service in config["services"]:
        if service["name"] in (services or {}):
            service["allow"] = services[service["name"]]
    config.update(more)
    path = folder / "splitd.json"
    path.write_text(json.dumps(config))
    return path


def pair(made):
    return {"cert": str(made[0]), "key": str(made[1])}


class Bench:
    """What all cases share: an authority and a few certificates."""

    def __init__(self, build, folder):
        self.build, self.folder = build, folder
        self.ca = certs.Authority(folder)
        self.server = self.ca.make(NAME, [f"DNS:{NAME}", "DNS:*.wild.example"])
        self.rsa = self.ca.make(NAME, [f"DNS:{NAME}"], rsa=True, file="server_rsa")
        self.other = self.ca.make("other.example", ["DNS:other.example"])
        self.client = self.ca.make("billing", ["DNS:billing.example", "URI:spiffe://example/billing"], client=True)
        self.stranger = self.ca.make("mallory", ["DNS:mallory.example"], client=True)
        self.expired = self.ca.make("old", ["DNS:billing.example"], client=True, days=-1)
        self.foreign = certs.Authority(folder, "foreign").make("billing", ["DNS:billing.example"], client=True, file="foreign_client")

    def served(self, example="echo", services=None, top=None, **tls):
        tls.setdefault("certificates", [pair(self.server)])
        return served.Served(self.build, example, config=configuration(self.folder, tls, services, **(top or {})))

    def context(self, client=None, alpn=("h2",), version=None, verify=True):
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if verify:
            c.load_verify_locations(self.ca.cert)
        else:
            c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
        if alpn:
            c.set_alpn_protocols(list(alpn))
        if client:
            c.load_cert_chain(*client)
        if version:
            c.minimum_version = c.maximum_version = version
        return c

    def grpcio(self, s, *args, client=None, check=True):
        """Calls by grpcio; what it prints as JSON."""
        command = ["/usr/bin/python3", CLIENT, s.target, "--ca", self.ca.cert, "--name", NAME, *args]
        if client:
            command += ["--cert", client[0], "--key", client[1]]
        return json.loads(s.run(command, check=check, timeout=120).stdout or "{}")


def inside(s, function, *args):
    """function(*args) on a thread of this process in the namespace; its result or exception."""
    out = {}

    def run():
        try:
            raw_frames.enter_netns(s.netns)
            out["value"] = function(*args)
        except BaseException as e:  # handed on
            out["error"] = e

    t = threading.Thread(target=run)
    t.start()
    t.join()
    if "error" in out:
        raise out["error"]
    return out["value"]


def address(s):
    return s.facts["address"], int(s.facts["port"])


def connect(s, context, name=NAME, session=None):
    sock = socket.create_connection(address(s), timeout=30)
    return context.wrap_socket(sock, server_hostname=name, session=session)


HEAD = [(":method", "POST"), (":scheme", "https"), (":path", "/split.examples.Echo/Unary"), (":authority", NAME),
        ("te", "trailers"), ("content-type", "application/grpc")]


def call(s, context, name=NAME):
    """One echo over a connection of its own; the TLS socket's facts."""
    client = raw_grpc.Client(address(s), tls=context, name=name)
    fields, body = client.call(HEAD, raw_grpc.message(raw_grpc.field(1, 2, b"hello")))
    check(f"an echo: {fields}", fields.get("grpc-status") == "0" and body[5:] == raw_grpc.field(1, 2, b"hello"))
    facts = client.sock.version(), client.sock.cipher()[0], client.sock.getpeercert()
    client.sock.unwrap()
    return facts


# ---- cases --------------------------------------------------------------------------------------

def versions_and_names(b):
    """1.2 and 1.3, ALPN asked for, certificates by name and by kind."""
    with b.served(certificates=[pair(b.server), pair(b.rsa), pair(b.other)]) as s:
        got = b.grpcio(s, "--calls", "50", "--bytes", "1000")
        check(f"grpcio: {got}", got == {"OK": 50})
        for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
            facts = inside(s, call, s, b.context(version=version))
            check(f"version {facts[0]}", facts[0] == name)
        names = lambda name: [v for _, v in inside(s, call, s, b.context(), name)[2]["subjectAltName"]]
        check("the name's certificate", names("other.example") == ["other.example"])
        check("a wildcard's certificate", "*.wild.example" in names("a.wild.example"))
        unverified = b.context(verify=False)
        inside(s, call, s, unverified, "nobody.example")
        only_rsa = b.context(version=ssl.TLSVersion.TLSv1_2)
        only_rsa.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
        check("RSA for who wants it", "RSA" in inside(s, call, s, only_rsa)[1])
        for alpn in ((), ("http/1.1",)):
            try:
                inside(s, connect, s, b.context(alpn=alpn)).close()
                raise AssertionError(f"ALPN {alpn} was let in")
            except ssl.SSLError as e:
                check(f"ALPN {alpn}: {e}", "no application protocol" in str(e).lower().replace("_", " "))
        old = b.context(verify=False)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        try:
            inside(s, connect, s, old).close()
            raise AssertionError("TLS 1.1 was let in")
        except ssl.SSLError:
            pass
        # RFC 9113 s9.2.2: what HTTP/2 forbids is not there to be chosen.
        for cipher in ("AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-RSA-AES256-SHA384"):
            forbidden = b.context(version=ssl.TLSVersion.TLSv1_2, verify=False)
            forbidden.set_ciphers(cipher)
            try:
                inside(s, connect, s, forbidden).close()
                raise AssertionError(f"{cipher} was let in")
            except ssl.SSLError as e:
                check(f"{cipher}: {e}", "handshake failure" in str(e).lower().replace("_", " "))
        served.wait_until(lambda: s.stats()["tls.failed_cipher"] == 3, 30, "each counted by cause")
        stats = s.stats()
        check(f"counters {stats}", stats["tls.failed_alpn"] == 2 and stats["tls.failed_version"] == 1 and
              stats["tls.handshakes_12"] >= 2 and stats["tls.handshakes_failed"] == 6)


def closing(b):
    """close_notify both ways; half-close; a FIN without it."""
    with b.served() as s:
        def both():
            client = raw_grpc.Client(address(s), tls=b.context(), name=NAME)
            client.until(lambda f: f[0] == raw_grpc.h2.SETTINGS and f[1] == raw_grpc.h2.ACK)
            client.sock.unwrap()  # sends close_notify and waits for the server's
        inside(s, both)

        def half():
            tls = connect(s, b.context())
            tls.sendall(raw_grpc.h2.PREFACE + raw_grpc.h2.frame(raw_grpc.h2.SETTINGS, 0, 0, b""))
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls.close()
            # The same by hand, for Python's sockets cannot half-close TLS: call, close_notify, then the answer.
            raw = socket.create_connection(address(s), timeout=30)
            o = b.context().wrap_bio(incoming, outgoing, server_hostname=NAME)
            data = b""
            while True:
                try:
                    o.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    incoming.write(raw.recv(65536))
            h2 = raw_grpc.h2
            message = raw_grpc.message(raw_grpc.field(1, 2, b"half"))
            o.write(h2.PREFACE + h2.frame(h2.SETTINGS, 0, 0, b"") + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.block(*HEAD)) +
                    h2.frame(h2.DATA, h2.END_STREAM, 1, message))
            try:
                o.unwrap()
            except ssl.SSLWantReadError:
                pass
            raw.sendall(outgoing.read())
            raw.shutdown(socket.SHUT_WR)
            while True:
                got = raw.recv(65536)
                if not got:
                    break
                data += got
            check(f"answers after the client's close_notify: {len(data)} bytes, {s.stats()}", len(data) > 100)
        inside(s, half)

        def short():
            tls = connect(s, b.context())
            socket.socket.shutdown(tls, socket.SHUT_RDWR)
            tls.close()
        inside(s, short)
        served.wait_until(lambda: s.stats()["tls.closed_short"] >= 1, 10, "a stream cut short is counted")
        check("close_notify came", s.stats()["tls.closed_by_peer"] >= 2)


def resumption(b):
    """Tickets in 1.2 and 1.3, by openssl and grpcio."""
    with b.served() as s:
        for version in ("-tls1_2", "-tls1_3"):
            file = b.folder / f"session{version}"
            common = ["openssl", "s_client", "-connect", s.target, "-alpn", "h2", "-servername", NAME, version,
                      "-CAfile", b.ca.cert, "-verify_return_error"]
            # Some time for the ticket of 1.3, which comes after the handshake.
            first = s.run(["sh", "-c", 'sleep 1 | "$@"', "sh", *common, "-sess_out", file])
            check(f"{version}: a new session\n{first.stdout}", "\nNew, " in first.stdout)
            second = s.run(["sh", "-c", 'sleep 1 | "$@"', "sh", *common, "-sess_in", file])
            check(f"{version}: resumed\n{second.stdout}{second.stderr}", "\nReused, " in second.stdout)
        check("counted", s.stats()["tls.handshakes_resumed"] == 2)


def client_certificates(b):
    """Required and optional; allow lists; the identity at the handler."""
    allow = {"grpc.testing.TestService": ["billing.example"]}
    with b.served("interop", client_ca=str(b.ca.cert), services=allow) as s:
        got = b.grpcio(s, "--username", client=b.client)
        check(f"allowed: {got}", got == {"username": "billing.example"})
        got = b.grpcio(s, "--username", client=b.stranger)
        check(f"not allowed: {got}", got == {"PERMISSION_DENIED": 1})
        for who in (None, b.expired, b.foreign):
            got = b.grpcio(s, "--username", client=who)
            check(f"{who}: {got}", got == {"UNAVAILABLE": 1})
        served.wait_until(lambda: s.stats()["tls.failed_certificate"] >= 3, 10, "counted by cause")
    with b.served("interop", client_ca=str(b.ca.cert), client_auth="optional", services=allow) as s:
        check("known", b.grpcio(s, "--username", client=b.client) == {"username": "billing.example"})
        got = b.grpcio(s, "--username")
        check(f"unknown: {got}", got == {"UNAUTHENTICATED": 1})
    with b.served("interop", client_ca=str(b.ca.cert), client_auth="optional") as s:
        got = b.grpcio(s, "--username")
        check(f"nobody asked for: {got}", got == {"username": "somebody over TLS"})


def reload_under_load(b):
    """New certificates for new connections, and not one call lost; a broken one changes nothing."""
    live = [b.folder / "live.pem", b.folder / "live.key"]

    def install(made):
        for to, source in zip(live, made):
            to.write_bytes(pathlib.Path(source).read_bytes())
            to.chmod(0o600)

    def serial(s):
        return inside(s, lambda: connect(s, b.context(verify=True)).getpeercert()["serialNumber"])

    install(b.server)
    with b.served(certificates=[{"cert": str(live[0]), "key": str(live[1])}]) as s:
        before = serial(s)
        load = s.start(["/usr/bin/python3", CLIENT, s.target, "--ca", b.ca.cert, "--name", NAME, "--seconds", "6", "--fresh"],
                       stdout=subprocess.PIPE, text=True)
        ctl = [str(b.build / "ctl/splitctl"), "--prefix", s.facts["prefix"], "reload"]
        for i in range(6):
            time.sleep(0.4)
            install(b.rsa if i % 2 == 0 else b.server)
            if i < 3:
                os.kill(s.splitd, signal.SIGHUP)
            else:
                subprocess.run(ctl, check=True, timeout=30)
        install(b.rsa)
        subprocess.run(ctl, check=True, timeout=30)
        served.wait_until(lambda: serial(s) != before, 10, "the new certificate")
        live[1].write_bytes(pathlib.Path(b.other[1]).read_bytes())
        bad = subprocess.run(ctl, capture_output=True, text=True, timeout=30)
        check(f"a broken pair: {bad}", bad.returncode != 0 and "does not belong" in bad.stderr and str(live[1]) in bad.stderr)
        check("the old one stays", serial(s) != before)
        out = json.loads(load.communicate(timeout=60)[0])
        check(f"calls under reload: {out}", set(out) == {"OK"} and out["OK"] > 100)


def attacks(b):
    """Handshakes without end, half handshakes, renegotiation and garbage, with an honest client beside them."""
    with b.served(top={"tls": {"handshakes_max": 64}}, handshake_timeout="2s") as s:
        honest = s.start(["/usr/bin/python3", CLIENT, s.target, "--ca", b.ca.cert, "--name", NAME, "--seconds", "8"],
                         stdout=subprocess.PIPE, text=True)
        stop = time.monotonic() + 4

        def flood():
            idle = []
            hello = None
            while time.monotonic() < stop:
                o = b.context(verify=False).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=NAME)
                try:
                    o.do_handshake()
                except ssl.SSLWantReadError:
                    pass
                if hello is None:
                    out = ssl.MemoryBIO()
                    o = b.context(verify=False).wrap_bio(ssl.MemoryBIO(), out, server_hostname=NAME)
                    try:
                        o.do_handshake()
                    except ssl.SSLWantReadError:
                        hello = out.read()
                try:
                    sock = socket.create_connection(address(s), timeout=5)
                    sock.sendall((hello, hello[:50], b"GET / HTTP/1.1\r\n\r\n", os.urandom(300))[len(idle) % 4])
                    idle.append(sock)
                except OSError:
                    pass
                if len(idle) > 200:
                    idle.pop(0).close()

        inside(s, flood)
        reneg = s.run(["sh", "-c", '(sleep 0.5; echo R; sleep 1) | "$@"', "sh", "openssl", "s_client", "-connect", s.target,
                       "-alpn", "h2", "-tls1_2", "-servername", NAME], check=False)
        check(f"renegotiation: {reneg.stderr}", "renegotiation" in (reneg.stderr + reneg.stdout).lower())
        served.wait_until(lambda: s.stats()["tls.renegotiations"] >= 1, 10, "renegotiation ended its connection")
        out = json.loads(honest.communicate(timeout=60)[0])
        check(f"the honest client: {out}", set(out) == {"OK"} and out["OK"] > 50)
        stats = s.stats()
        print({k: v for k, v in stats.items() if k.startswith("tls.") and v})
        check("bounds were hit and counted", stats["tls.handshakes_evicted"] > 0 and stats["tls.failed_malformed"] > 0)
        check("alive", s.alive())
        got = b.grpcio(s, "--calls", "5")
        check(f"afterwards: {got}", got == {"OK": 5})


def key_updates(b):
    """A client that does nothing but renew its keys is ended."""
    with b.served() as s:
        flood = s.run(["sh", "-c", '(sleep 0.5; i=0; while [ $i -lt 200 ]; do echo K; i=$((i+1)); sleep 0.01; done; sleep 1) | "$@"', "sh",
                       "openssl", "s_client", "-connect", s.target, "-alpn", "h2", "-tls1_3", "-servername", NAME], check=False)
        check(f"K: {flood.stderr}", "KEYUPDATE" in flood.stderr)
        served.wait_until(lambda: s.stats()["tls.key_updates_over"] == 1, 10, "ended and counted")


def bad_files(b):
    """What is wrong with a certificate or key is one line that names file and key."""
    def said(tls):
        path = configuration(b.folder, tls)
        done = subprocess.run([b.build / "daemon/splitd", "--check", "-c", path], capture_output=True, text=True)
        check(f"--check must fail: {done}", done.returncode == 1)
        lines = [line for line in done.stderr.splitlines() if line]
        check(f"one line: {lines}", len(lines) == 1)
        return lines[0]

    cert, key = map(str, b.server)
    wrong = said({"certificates": [{"cert": cert, "key": str(b.other[1])}]})
    check(wrong, "listeners[0].tls" in wrong and cert in wrong and str(b.other[1]) in wrong and "does not belong" in wrong)
    wrong = said({"certificates": [{"cert": "/nowhere/c.pem", "key": key}]})
    check(wrong, "/nowhere/c.pem" in wrong and "No such file" in wrong)
    wrong = said({"certificates": [{"cert": key, "key": key}]})
    check(wrong, "no certificate in PEM" in wrong)
    wrong = said({"certificates": [{"cert": cert, "key": cert}]})
    check(wrong, "no private key" in wrong)
    locked = b.folder / "locked.key"
    b.ca.openssl("pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked)
    wrong = said({"certificates": [{"cert": cert, "key": str(locked)}]})
    check(wrong, "encrypted" in wrong)
    wrong = said({"certificates": [pair(b.server)], "ciphers": "AES128-SHA"})
    check(wrong, "AES128-SHA" in wrong and "ephemeral" in wrong)
    wrong = said({"certificates": [pair(b.server)], "client_ca": "/nowhere/ca.pem"})
    check(wrong, "/nowhere/ca.pem" in wrong)


def h2load(b):
    """nghttp2's client over TLS with ALPN, many connections at once."""
    body = b.folder / "body"
    body.write_bytes(raw_grpc.message(raw_grpc.field(1, 2, b"x" * 64)))
    with b.served() as s:
        out = s.run(["h2load", "-n", "2000", "-c", "20", "-m", "8", "-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers",
                     f"https://{s.target}/split.examples.Echo/Unary"]).stdout
        check(out, "2000 succeeded, 0 failed" in out and "TLSv1.3" in out and "Application protocol: h2" in out)


def stapling(b):
    """The OCSP response of the file reaches a client that asks, byte for byte, and an authority's signature is on it."""
    b.ca.openssl_ocsp(b.server[0], b.folder / "server.ocsp")
    certificate = {**pair(b.server), "ocsp": str(b.folder / "server.ocsp")}
    looked = b.ca.openssl("ocsp", "-respin", b.folder / "server.ocsp", "-issuer", b.ca.cert, "-cert", b.server[0], "-CAfile", b.ca.cert,
                          "-resp_text")
    check(f"the file itself: {looked}", "Cert Status: good" in looked)
    lines = lambda text: [line.strip() for line in text.splitlines() if line.strip()]
    # What is printed of it: serial numbers, times, and the signature in hexadecimal.
    expected = lines(looked[looked.index("Response Type"):looked.index("Certificate:") if "Certificate:" in looked else None])
    with b.served(certificates=[certificate, pair(b.rsa)]) as s:
        for version in ("-tls1_2", "-tls1_3"):
            common = ["openssl", "s_client", "-connect", s.target, "-alpn", "h2", "-servername", NAME, version, "-CAfile", b.ca.cert,
                      "-verify_return_error"]
            ec, rsa = ("-sigalgs", "ECDSA+SHA256"), ("-sigalgs", "RSA-PSS+SHA256")
            got = s.run([*common, *ec, "-status"], input="").stdout
            missing = [line for line in expected if line not in lines(got)]
            check(f"{version}: a staple: {missing}\n{got}", "OCSP Response Status: successful" in got and not missing)
            got = s.run([*common, *ec], input="").stdout
            check(f"{version}: none for who does not ask\n{got}", "OCSP" not in got)
            got = s.run([*common, *rsa, "-status"], input="").stdout
            check(f"{version}: none where none is configured\n{got}", "OCSP response: no response sent" in got)


CASES = [versions_and_names, stapling, closing, resumption, client_certificates, reload_under_load, attacks, key_updates, bad_files, h2load]


def main():
    build, wanted = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    served.need_kernel()
    with tempfile.TemporaryDirectory(prefix="splitd-tls.") as folder:
        bench = Bench(build, pathlib.Path(folder))
        for case in CASES:
            if wanted and case.__name__ not in wanted:
                continue
            print(f"{case.__name__}: {case.__doc__}", flush=True)
            case(bench)
    print("good")


main()
