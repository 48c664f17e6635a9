#!/usr/bin/python3
"""A host on another machine that does not behave: an honest one behind a proxy that spoils what it sends to splitd.

usage: hostile_remote.py --listen ADDRESS:PORT --splitd ADDRESS:PORT --mode MODE --seed N

Whoever connects is joined with splitd; frames from splitd pass as they are, those to splitd (after HELLO, and in some modes
before) are spoiled by the mode. `knock` connects by itself and never says anything that makes sense. One JSON object at the
end, on SIGTERM (before: `listening`, and `spoiled` once something was): {"mode", "connections", "frames", "spoiled"}.
"""
import argparse
import collections
import json
import random
import selectors
import signal
import socket
import struct
import sys

HELLO, SLOT, WINDOW, PULSE = 1, 4, 5, 8
HEAD = struct.Struct("<IBBH")  # length, type, flags, zero
SLOT_BYTES = 80


def frames_of(data):
    """Whole frames at the beginning of `data`, which loses them."""
    out = []
    while len(data) >= HEAD.size:
        size = HEAD.unpack_from(data)[0]
        if size < HEAD.size or len(data) < size:
            break
        out.append(bytes(data[:size]))
        del data[:size]
    return out


class Spoiler:
    """What a mode makes of a frame: a list of frames in its place."""

    def __init__(self, mode, rng):
        self.mode, self.rng, self.spoiled, self.old = mode, rng, 0, collections.deque(maxlen=64)

    def frame(self, frame):
        kind = HEAD.unpack_from(frame)[1]
        made = getattr(self, self.mode.replace("-", "_"))(frame, kind)
        self.spoiled += made != [frame]
        return made

    def some(self, one_in):
        return self.rng.randrange(one_in) == 0

    def hello(self, frame, kind):
        """Bytes of the greeting change: names, methods, schema."""
        return [self.flipped(frame, HEAD.size, 6)] if kind == HELLO else [frame]

    def flip(self, frame, kind):
        """Bytes anywhere behind the head."""
        return [self.flipped(frame, HEAD.size, 3)] if kind != HELLO and len(frame) > HEAD.size and self.some(4) else [frame]

    def head(self, frame, kind):
        """The head itself: lengths, types, flags."""
        return [self.flipped(frame, 0, 1, HEAD.size)] if kind != HELLO and self.some(8) else [frame]

    def message(self, frame, kind):
        """A slot's parts: offsets in the message, metadata, text."""
        return [self.flipped(frame, HEAD.size + SLOT_BYTES, 4)] if kind == SLOT and len(frame) > HEAD.size + SLOT_BYTES else [frame]

    def replay(self, frame, kind):
        """Slots of calls that are over, and everything twice."""
        if kind != SLOT:
            return [frame]
        self.old.append(frame)
        return [frame, self.rng.choice(self.old), frame]

    def reorder(self, frame, kind):
        if kind != SLOT:
            return [frame]
        self.old.append(frame)
        if len(self.old) < 4:
            return []
        some = list(self.old)
        self.old.clear()
        self.rng.shuffle(some)
        return some

    def drop(self, frame, kind):
        """Answers that never come."""
        return [] if kind == SLOT and self.some(3) else [frame]

    def no_window(self, frame, kind):
        """What splitd sends is never given back."""
        return [] if kind == WINDOW else [frame]

    def windows(self, frame, kind):
        """More is given back than there ever was."""
        return [frame, HEAD.pack(HEAD.size + 8, WINDOW, 0, 0) + struct.pack("<Q", self.rng.choice((1 << 20, 1 << 40, (1 << 64) - 1)))]

    def pulses(self, frame, kind):
        """Signs of life, each of which asks for one."""
        return [frame] if kind == HELLO else [frame] + 200 * [HEAD.pack(HEAD.size, PULSE, 1, 0)]

    def flipped(self, frame, first, n, end=None):
        out = bytearray(frame)
        for _ in range(n):
            out[self.rng.randrange(first, end or len(out))] = self.rng.randrange(256)
        return bytes(out)


def knock(args, rng):
    """Connections that greet with nonsense, or not at all and stay."""
    held, n = [], 0
    print("spoiled", flush=True)
    while not args.over:
        try:
            s = socket.create_connection(args.splitd, timeout=2)
        except OSError:
            continue
        n += 1
        what = rng.randrange(4)
        try:
            if what == 1:
                s.sendall(bytes(rng.randrange(256) for _ in range(rng.randrange(1, 4000))))
            elif what == 2:
                s.sendall(HEAD.pack(1 << 20, HELLO, 0, 0) + b"\0" * 4096)
            elif what == 3:
                s.sendall(HEAD.pack(HEAD.size, rng.randrange(2, 12), 0, 0))
        except OSError:
            pass
        held.append(s)
        if len(held) > 100:
            held.pop(rng.randrange(100)).close()
    return {"connections": n, "frames": 0, "spoiled": n}


def proxy(args, rng):
    told = {"connections": 0, "frames": 0, "spoiled": 0}
    listener = socket.create_server(args.listen)
    wait = selectors.DefaultSelector()
    wait.register(listener, selectors.EVENT_READ, None)

    def end(pair):
        for s in pair["both"]:
            try:
                wait.unregister(s)
            except KeyError:
                pass
            s.close()
        pair["over"] = True

    print("listening", flush=True)
    while not args.over:
        for key, _ in wait.select(0.1):
            if key.data is None:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(args.splitd, timeout=5)
                except OSError:
                    near.close()
                    continue
                told["connections"] += 1
                pair = {"both": (near, far), "data": bytearray(), "spoiler": Spoiler(args.mode, rng), "over": False}
                wait.register(near, selectors.EVENT_READ, (pair, near, far))
                wait.register(far, selectors.EVENT_READ, (pair, far, near))
                for s in (near, far):
                    s.settimeout(2)
                continue
            pair, source, target = key.data
            if pair["over"]:
                continue
            try:
                data = source.recv(1 << 18)
                if source is pair["both"][0] and data:
                    pair["data"] += data
                    out = []
                    for frame in frames_of(pair["data"]):
                        told["frames"] += 1
                        before = pair["spoiler"].spoiled
                        out += pair["spoiler"].frame(frame)
                        if told["spoiled"] == 0 and pair["spoiler"].spoiled != before:
                            print("spoiled", flush=True)
                        told["spoiled"] += pair["spoiler"].spoiled - before
                    target.sendall(b"".join(out))
                elif data:
                    target.sendall(data)
            except OSError:
                data = b""
            if not data:
                end(pair)
    return told


def main():
    parser = argparse.ArgumentParser()
    address = lambda text: (text.rsplit(":", 1)[0], int(text.rsplit(":", 1)[1]))
    parser.add_argument("--listen", type=address)
    parser.add_argument("--splitd", type=address, required=True)
    parser.add_argument("--mode", required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.over = False
    signal.signal(signal.SIGTERM, lambda *_: setattr(args, "over", True))
    rng = random.Random(args.seed)
    told = (knock if args.mode == "knock" else proxy)(args, rng)
    print(json.dumps({"mode": args.mode, **told}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
