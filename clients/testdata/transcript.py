"""A program that does what its standard input says, one line at a time, and says
in one line what came of it: transcript.c in Python.
"""

import errno
import os
import resource
import signal
import socket
import sys
import types
import zlib

import aftls

FLAGS = {"control", "kernel", "client"}


class Program:
    path = None
    unread = b""
    data = control = None

    def daemon(self, path):
        """Python connects for every hand-off."""
        self.path = None if path == "default" else path

    def keys(self, form, *words):
        if form == "secret":
            cipher, number, secret = words
            try:
                return aftls.TrafficSecret(int(cipher), unhex(secret), int(number, 0))
            except ValueError:
                raise OSError(errno.EINVAL, "") from None
        if form == "dtls-secret":
            cipher, number, secret = words
            return aftls.TrafficSecret(int(cipher), unhex(secret), int(number, 0), aftls.DTLS13)
        version, cipher, number, key, iv = words
        return aftls.CryptoInfo(int(version, 0), int(cipher), unhex(key), unhex(iv), int(number, 0))

    def tx(self, *words):
        self.tx_keys = self.keys(*words)

    def rx(self, *words):
        self.rx_keys = self.keys(*words)

    def set_unread(self, b):
        self.unread = unhex(b)

    def handoff(self, fd, *flags):
        # Only fileno is asked of it; it may be no socket at all.
        sock = types.SimpleNamespace(fileno=lambda: int(fd))
        try:
            self.data, self.control = aftls.handoff(
                sock, self.tx_keys, self.rx_keys, path=self.path, unread=self.unread,
                **{f: f in flags for f in FLAGS},
            )
        except aftls.Lost as e:
            return f"lost {e.errno} {e.strerror}"
        except aftls.Refused as e:
            return f"refused {e.errno} {e.strerror}"

    def read(self, n):
        want, got, crc, end = int(n), 0, 0, ""
        while got < want:
            try:
                b = self.data.recv(min(want - got, 1 << 16))
            except OSError as e:
                end = f" errno {e.errno}"
                break
            if not b:
                end = " end"
                break
            crc, got = zlib.crc32(b, crc), got + len(b)
        return f"read {got} crc {crc:08x}{end}"

    def write(self, text):
        self.data.sendall(text.encode())

    def fill(self, n):
        n, b = int(n), bytes(range(251)) * 256
        while n > 0:
            self.data.sendall(b[:n])
            n -= len(b)

    def message(self, n):
        self.data.send((bytes(range(251)) * 100)[: int(n)])

    def echo(self):
        total = 0
        while b := self.data.recv(1 << 16):
            self.data.sendall(b)
            total += len(b)
        return f"echoed {total}"

    def shut(self):
        self.data.shutdown(socket.SHUT_WR)

    def close(self):
        self.data.close()

    def close_control(self):
        self.control.close()

    def record(self, type, payload):
        self.control.send_record(int(type), unhex(payload))

    def keys_tx(self):
        self.control.send_keys(aftls.TX, self.tx_keys)

    def keys_rx(self):
        self.control.send_keys(aftls.RX, self.rx_keys)

    def info(self):
        self.control.ask_info()

    def rekey(self):
        self.control.ask_rekey()

    def off(self):
        self.control.ask_off()

    def receive(self):
        m = self.control.receive()
        if m is None:
            return "closed"
        if isinstance(m, aftls.Record):
            return f"record {m.type} offset {m.offset} {m.payload.hex() or '-'}"
        if isinstance(m, aftls.Info):
            drops = "" if m.drops is None else " drops %d %d %d %d" % m.drops
            return "info" + direction("tx", m.tx) + direction("rx", m.rx) + drops
        if isinstance(m, aftls.Warned):
            return f"warning {m.error} limit {m.limit} {m.text}"
        if isinstance(m, aftls.Off):
            return f"off {m.state.hex()} {m.undelivered.hex() or '-'}"
        return f"{'end' if isinstance(m, aftls.End) else 'answer'} {m.error} {m.text}"

    def receive_under_signals(self):
        signal.signal(signal.SIGALRM, lambda *_: os.write(1, b"signal\n"))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            return self.receive()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def descriptors(self):
        # As transcript.c counts: with the two entries for directories, and what
        # both have open to count.
        return f"descriptors {len(os.listdir('/proc/self/fd')) + 2}"

    def handoff_without_descriptors(self, fd, *flags):
        """Where none can be taken any more but that of the connection to the daemon."""
        free = os.dup(0)
        os.close(free)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, before[1]))
        said = self.handoff(fd, *flags)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        return said


def unhex(w):
    return b"" if w == "-" else bytes.fromhex(w)


def direction(name, d):
    return (f" {name} {d.version:04x} {d.suite:04x} seq {d.seq} records {d.records}"
            f" bytes {d.bytes} epoch {d.epoch}")


def main():
    p = Program()
    for line in sys.stdin:
        name, *words = line.split()
        name = {"unread": "set-unread"}.get(name, name).replace("-", "_")
        try:
            said = getattr(p, name)(*words)
        except OSError as e:
            said = f"errno {e.errno}"
        print("ok" if said is None else said, flush=True)
    for x in (p.data, p.control):
        if x:
            x.close()


main()
