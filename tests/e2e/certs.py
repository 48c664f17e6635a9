"""Certificates for tests, made with the openssl command at the time of the test."""
import pathlib
import subprocess


class Authority:
    """A CA in `folder`; make() signs certificates: each is (cert file with its chain, key file)."""

    def __init__(self, folder, name="ca"):
        self.folder = pathlib.Path(folder)
        self.name = name
        self.cert, self.key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                     "-keyout", self.key, "-out", self.cert, "-subj", f"/CN={name}",
                     "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def openssl(self, *args):
        done = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"openssl {args[0]}: {done.stderr}")
        return done.stdout

    def openssl_ocsp(self, cert, to):
        """An OCSP response in `to` that says "good" of `cert`, signed by this authority, for a day."""
        serial = self.openssl("x509", "-in", cert, "-noout", "-serial").strip().split("=")[1]
        index = self.folder / "ocsp.txt"
        index.write_text(f"V\t491231235959Z\t\t{serial}\tunknown\t/CN=x\n")
        request = self.folder / "ocsp.req"
        self.openssl("ocsp", "-issuer", self.cert, "-cert", cert, "-no_nonce", "-reqout", request)
        self.openssl("ocsp", "-index", index, "-CA", self.cert, "-rsigner", self.cert, "-rkey", self.key, "-reqin", request,
                     "-respout", to, "-ndays", 1)

    def make(self, name, alternatives=(), rsa=False, days=1, client=False, file=None):
        """rsa: True or the bits; else an elliptic curve. days < 0: it ended so long ago."""
        file = file or name.replace("*", "any").replace("/", "_")
        cert, key, request = (self.folder / f"{file}.{end}" for end in ("pem", "key", "csr"))
        extensions = self.folder / f"{file}.ext"
        extensions.write_text(f"basicConstraints=CA:FALSE\nextendedKeyUsage={'clientAuth' if client else 'serverAuth'}\n" +
                              (f"subjectAltName={','.join(alternatives)}\n" if alternatives else ""))
        kind = (f"rsa:{2048 if rsa is True else rsa}",) if rsa else ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        self.openssl("req", "-newkey", *kind, "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        if days > 0:
            self.openssl("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial",
                         "-days", days, "-extfile", extensions, "-out", cert)
        else:
            (self.folder / "index.txt").write_text("")
            (self.folder / "ca.conf").write_text("[ca]\ndefault_ca=d\n[d]\n" f"database={self.folder}/index.txt\n"
                                                 f"new_certs_dir={self.folder}\npolicy=p\ndefault_md=sha256\n"
                                                 "rand_serial=yes\n[p]\ncommonName=supplied\n")
            self.openssl("ca", "-batch", "-config", self.folder / "ca.conf", "-in", request, "-cert", self.cert,
                         "-keyfile", self.key, "-startdate", "20200101000000Z", "-enddate", "20200201000000Z",
                         "-extfile", extensions, "-out", cert, "-notext")
        return cert, key
