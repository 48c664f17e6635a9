"""What Python's ssl cannot ask for: openssl s_client, told by its one-letter commands."""
import subprocess
import time

ROUNDS = 200  # commands of one connection, if it lasts


def flood(run, options, command):
    """Four connections at a time, each sending `command` until the server ends it; at least one of each is seen to its end."""
    while run.going() or not run.seen["connections"]:
        peers = [subprocess.Popen(["openssl", "s_client", "-connect", "%s:%d" % run.address, "-alpn", "h2", *options],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(4)]
        for peer in peers:
            # Commands count from when it is connected: before, they would be one read of the terminal.
            while peer.poll() is None and b"---" not in (line := peer.stdout.readline()) and line:
                pass
        run.seen["connections"] += len(peers)
        for _ in range(ROUNDS):
            going = [p for p in peers if p.poll() is None]
            for peer in going:
                try:
                    peer.stdin.write(command)
                    peer.stdin.flush()
                    run.seen["frames"] += 1
                    run.seen["bytes"] += len(command)
                except (BrokenPipeError, ConnectionResetError):
                    pass
            if not going:
                break
            time.sleep(0.005)
        for peer in peers:
            try:
                peer.wait(10)
                run.seen["ended"] += 1
            except subprocess.TimeoutExpired:
                peer.kill()
                peer.wait()
            for pipe in (peer.stdin, peer.stdout):
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
