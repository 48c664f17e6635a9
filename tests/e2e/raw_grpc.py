"""gRPC calls in raw HTTP/2 frames, answers read with nghttp2's own HPACK decoder (the library splitd links)."""
import ctypes
import ctypes.util
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "http2"))
import conformance_test as h2  # noqa: E402


class Field(ctypes.Structure):
    _fields_ = [("name", ctypes.POINTER(ctypes.c_char)), ("value", ctypes.POINTER(ctypes.c_char)),
                ("name_len", ctypes.c_size_t), ("value_len", ctypes.c_size_t), ("flags", ctypes.c_uint8)]


class Inflater:
    def __init__(self):
        self.lib = ctypes.CDLL("libnghttp2.so.14")
        self.lib.nghttp2_hd_inflate_hd2.restype = ctypes.c_ssize_t
        self.hd = ctypes.c_void_p()
        assert self.lib.nghttp2_hd_inflate_new(ctypes.byref(self.hd)) == 0

    def fields(self, block):
        out, at = {}, 0
        nv, flags = Field(), ctypes.c_int(0)
        while True:
            n = self.lib.nghttp2_hd_inflate_hd2(self.hd, ctypes.byref(nv), ctypes.byref(flags), block[at:],
                                                ctypes.c_size_t(len(block) - at), 1)
            assert n >= 0, f"splitd sent a header block that nghttp2 cannot read: {n}"
            at += n
            if flags.value & 2:
                out[nv.name[:nv.name_len].decode()] = nv.value[:nv.value_len].decode()
            if flags.value & 1:
                self.lib.nghttp2_hd_inflate_end_headers(self.hd)
                return out


class Client(h2.Conn):
    """One connection; call() is one request and its whole answer."""

    def __init__(self, address, **more):
        super().__init__(address, **more)
        self.inflater, self.next_id = Inflater(), 1

    def open(self, fields, data=b"", end=True, headers_end=False):
        stream, self.next_id = self.next_id, self.next_id + 2
        flags = h2.END_HEADERS | (h2.END_STREAM if headers_end else 0)
        block = fields if isinstance(fields, bytes) else h2.block(*fields)
        pieces = [block[i:i + 16000] for i in range(0, len(block), 16000)]
        out = h2.frame(h2.HEADERS, flags if len(pieces) == 1 else flags & ~h2.END_HEADERS, stream, pieces[0])
        for i, piece in enumerate(pieces[1:], 2):
            out += h2.frame(h2.CONT, h2.END_HEADERS if i == len(pieces) else 0, stream, piece)
        if not headers_end:
            for at in range(0, len(data), 16384):
                out += h2.frame(h2.DATA, 0, stream, data[at:at + 16384])
            if end:
                out += h2.frame(h2.DATA, h2.END_STREAM, stream)
        self.send(out)
        return stream

    def answer(self, stream):
        """(headers and trailers in one dict, body); "reset" or "goaway" in the dict when the stream ended by that."""
        fields, body = {}, b""
        while True:
            got = self.read()
            if got is None:
                return fields | {"closed": True}, body
            kind, flags, sid, payload = got
            if kind == h2.HEADERS:
                decoded = self.inflater.fields(payload)  # the decoder must see other streams' too
                if sid == stream:
                    fields |= decoded
            elif kind == h2.DATA and sid == stream:
                body += payload
            elif kind == h2.RST and sid == stream:
                return fields | {"reset": int.from_bytes(payload, "big")}, body
            elif kind == h2.GOAWAY and int.from_bytes(payload[4:8], "big") != 0:
                return fields | {"goaway": int.from_bytes(payload[4:8], "big")}, body
            if sid == stream and kind in (h2.HEADERS, h2.DATA) and flags & h2.END_STREAM:
                return fields, body

    def call(self, *args, **more):
        return self.answer(self.open(*args, **more))


def message(payload, flag=0, length=None):
    return bytes([flag]) + (len(payload) if length is None else length).to_bytes(4, "big") + payload


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, wire, content=b""):
    return varint(number << 3 | wire) + (varint(len(content)) if wire == 2 else b"") + content
