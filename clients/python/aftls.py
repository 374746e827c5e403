"""The client of the aftls hand-off daemon (docs/handoff.md). Linux, Python 3.9.

A program that did a TLS handshake gives keys and TCP socket to the daemon, and
gets a socket on which it reads and writes plaintext; with DTLS and a UDP socket
each message of that is a datagram:

    tx = aftls.TrafficSecret(aftls.AES_128_GCM, server_secret)
    rx = aftls.TrafficSecret(aftls.AES_128_GCM, client_secret)
    data, _ = aftls.handoff(sock, tx, rx)

Nothing here has global state. Python cannot promise that no copy of a key is
left in memory: give secrets as bytearrays and overwrite them, and call wipe() of
the objects that were made of them.
"""

import array
import errno
import os
import socket
import struct
from typing import List, NamedTuple, Optional, Tuple, Union

__all__ = [
    "AES_128_GCM", "AES_256_GCM", "CHACHA20_POLY1305", "TLS12", "TLS13", "DTLS12", "DTLS13", "TX", "RX",
    "dtls_number", "TrafficSecret", "CryptoInfo", "handoff", "Refused", "Lost", "Control",
    "Record", "Answer", "Direction", "Drops", "Info", "Off", "End", "Warned", "Message",
]

# Ciphers, versions and directions have the numbers of <linux/tls.h>.
AES_128_GCM = 51
AES_256_GCM = 52
CHACHA20_POLY1305 = 54
TLS12 = 0x0303
TLS13 = 0x0304
DTLS12 = 0xFEFD
DTLS13 = 0xFEFC
TX = 1
RX = 2

MAX_UNREAD = 131072
MAX_RECORD = 16384

_MAGIC = 0x534C5461
_VERSION = 1
_CONTROL, _KERNEL, _CLIENT = 1, 2, 4
_CRYPTO_INFO, _TRAFFIC_SECRET = 1, 2
_RECORD, _KEYS, _INFO, _OFF, _REKEY, _ANSWER, _END, _WARNING = range(1, 9)
_MORE = 1

_REQUEST = struct.Struct("=IHHHHHHII")
_REPLY = struct.Struct("=IHHI")
_MESSAGE = struct.Struct("=BBHIQ")
_DIRECTION = struct.Struct("=HHIQQQQ")
_DROPS = struct.Struct("=QQQQ")
_ERROR = struct.Struct("=I")

Bytes = Union[bytes, bytearray, memoryview]


def dtls_number(epoch: int, number: int) -> int:
    """The number of the next record of DTLS, as keys have it: with its epoch, which is 1
    after the first handshake of DTLS 1.2, and 3 after that of 1.3.
    """
    return epoch << 48 | number


class _Keys:
    """Keys of one direction in the form of the protocol, which wipe overwrites."""

    form: int

    def __init__(self, packed: bytearray) -> None:
        self._packed = packed

    def wipe(self) -> None:
        """Overwrites the keys. The object is of no more use."""
        self._packed[:] = bytes(len(self._packed))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # and nothing of what is in it


class TrafficSecret(_Keys):
    """The traffic secret of one direction of TLS 1.3, the recommended form, or DTLS13.

    secret is client_ or server_application_traffic_secret_N, which key logs call
    CLIENT_TRAFFIC_SECRET_0 and SERVER_TRAFFIC_SECRET_0: 32 bytes, or 48 with
    AES_256_GCM. number is that of the next record under it, 0 for a key that
    nothing was sent with; a dtls_number with DTLS13. ValueError is another version or
    cipher, or another length.
    """

    form = _TRAFFIC_SECRET

    def __init__(self, cipher: int, secret: Bytes, number: int = 0, version: int = TLS13) -> None:
        want = {AES_128_GCM: 32, AES_256_GCM: 48, CHACHA20_POLY1305: 32}.get(cipher)
        if version not in (TLS13, DTLS13) or want is None or len(secret) != want:
            raise ValueError("the secret does not have the length of a cipher that is served")
        packed = bytearray(struct.pack("=HHHH", version, cipher, want, 0))
        packed += number.to_bytes(8, "big")
        packed += secret
        packed += bytes(48 - want)
        super().__init__(packed)


class CryptoInfo(_Keys):
    """The keys of one direction, as struct tls12_crypto_info_* of <linux/tls.h>.

    iv is the implicit part of the nonce: 12 bytes, or the 4 bytes of the salt in
    TLS 1.2 and DTLS 1.2 with AES-GCM. number is that of the next record, a dtls_number
    with DTLS12. ValueError is another version or cipher, or a key or an iv of another
    length.
    """

    form = _CRYPTO_INFO

    def __init__(self, version: int, cipher: int, key: Bytes, iv: Bytes, number: int = 0) -> None:
        want = {AES_128_GCM: 16, AES_256_GCM: 32, CHACHA20_POLY1305: 32}.get(cipher)
        if version not in (TLS12, TLS13, DTLS12) or want is None or len(key) != want:
            raise ValueError("the key does not have the length of a cipher that is served")
        gcm = cipher != CHACHA20_POLY1305
        explicit = gcm and version != TLS13  # a part of the nonce is in the records
        if len(iv) != (4 if explicit else 12):
            raise ValueError("the iv does not have the length of the cipher")
        seq = number.to_bytes(8, "big")
        packed = bytearray(struct.pack("=HH", version, cipher))
        if not gcm:
            packed += iv
        elif explicit:
            packed += seq  # the explicit part of the nonce is the number
        else:
            packed += iv[4:]
        packed += key
        if gcm:
            packed += iv[:4]
        packed += seq
        super().__init__(packed)


class Refused(OSError):
    """The daemon, or the way to it, said no: nothing was sent on the socket, and the
    program may go on with it. errno is that of docs/handoff.md, or of the system
    call that failed; strerror is the reason.
    """


class Lost(OSError):
    """No answer came, or none that can be understood: the daemon may have used the
    keys, and nobody must again. Close the socket. errno is ECONNRESET, EBADMSG,
    EMFILE when the descriptors could not be taken, ETIMEDOUT after
    socket.setdefaulttimeout, or that of the system call.
    """


def handoff(
    sock: socket.socket,
    tx: Union[TrafficSecret, CryptoInfo],
    rx: Union[TrafficSecret, CryptoInfo],
    *,
    control: bool = False,
    kernel: bool = False,
    client: bool = False,
    unread: Bytes = b"",
    path: Union[str, bytes, "os.PathLike[str]", None] = None,
) -> Tuple[socket.socket, Optional["Control"]]:
    """Gives a connection to the daemon.

    sock is a connected TCP socket, or UDP with keys of DTLS, tx and rx are the keys to send and to receive
    with, client says which side of the handshake the program was, and unread is
    ciphertext that was read from sock already, up to 128 KiB. It returns the data
    socket and, with control, the Control; with kernel, which needs control, they
    behave as a TLS socket of Linux does. Both are the caller's to close. path is the
    daemon's socket, without it the one that `aftls handd` has without --socket:
    aftls.sock in $XDG_RUNTIME_DIR or else in /run.

    sock stays the caller's, who must not read or write it any more. It may be
    closed at once, but for one that is wanted back with Control.ask_off.

    Raises Refused or Lost, and another OSError when no daemon listens. Threads may
    call it at once: each call has a connection of its own.
    """
    flags = _CONTROL * control | _KERNEL * kernel | _CLIENT * client
    head = _REQUEST.pack(
        _MAGIC, _VERSION, flags, tx.form, len(tx._packed), rx.form, len(rx._packed), len(unread), 0
    )
    if path is None:
        path = os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/run", "aftls.sock")
    rights = array.array("i", [sock.fileno()])
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        daemon.connect(os.fspath(path))
        try:
            daemon.sendmsg(
                [head, tx._packed, rx._packed, unread],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)],
                socket.MSG_NOSIGNAL,
            )
        except OSError as e:
            if e.errno in (errno.EPIPE, errno.ECONNRESET):
                # A daemon that refuses a connection says why before it closes it.
                try:
                    for fd in _reply(daemon, 0):
                        os.close(fd)
                except Lost:
                    pass
            raise Refused(e.errno or errno.ETIMEDOUT, f"sending the request failed: {e}") from e
        fds = _reply(daemon, 2 if control else 1)
    data = socket.socket(fileno=fds[0])
    return data, Control(socket.socket(fileno=fds[1])) if control else None


def _receive(sock: socket.socket, size: int, room: int = 0) -> Tuple[bytearray, List[int], int]:
    """Receives one message, the descriptors that came along, and the flags.

    When the daemon closes its end with something of ours unread, the kernel
    reports ECONNRESET once, in front of messages that it sent before. They are
    there for the next call.
    """
    b = bytearray(size)
    space = socket.CMSG_SPACE(room * array.array("i").itemsize) if room else 0
    args = ([b], space, socket.MSG_CMSG_CLOEXEC)
    try:
        n, ancillary, flags, _ = sock.recvmsg_into(*args)
    except ConnectionResetError:
        n, ancillary, flags, _ = sock.recvmsg_into(*args)
    fds = array.array("i")
    for level, kind, what in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(what[: len(what) - len(what) % fds.itemsize])
    del b[n:]
    return b, list(fds), flags


def _reply(daemon: socket.socket, want: int) -> List[int]:
    """Receives the daemon's reply, and the descriptors of one that grants."""
    try:
        b, fds, flags = _receive(daemon, _REPLY.size + 256, room=4)
    except ConnectionResetError:
        b, fds, flags = bytearray(), [], 0
    except OSError as e:
        raise Lost(e.errno or errno.ETIMEDOUT, f"receiving the answer failed: {e}") from e
    if not b:
        raise Lost(errno.ECONNRESET, "the daemon went away without an answer")
    if len(b) >= _REPLY.size:
        magic, version, _, error = _REPLY.unpack_from(b)
        if (magic, version) == (_MAGIC, _VERSION):
            if error == 0 and len(fds) == want:
                return fds
            if error != 0 and not fds:
                raise Refused(error, _text(b[_REPLY.size :]))
    for fd in fds:
        os.close(fd)
    if flags & socket.MSG_CTRUNC:
        raise Lost(errno.EMFILE, "this process could not take the descriptors")
    raise Lost(errno.EBADMSG, "what answered speaks another protocol")


def _text(b: Bytes) -> str:
    return bytes(b).decode("utf-8", "replace")


class Record(NamedTuple):
    """A control record was received."""

    type: int  # its content type
    payload: bytes
    offset: int  # bytes of data before it in the stream


class Answer(NamedTuple):
    """What became of a message to the daemon: error is an errno, or 0."""

    error: int
    text: str


class Direction(NamedTuple):
    """The state of one direction."""

    version: int
    suite: int  # the IANA number
    seq: int  # the number of the next record
    records: int
    bytes: int
    epoch: int  # how often it was rekeyed; the epoch of DTLS


class Drops(NamedTuple):
    """What was dropped of datagrams."""

    bad: int  # records that were forged, damaged or of something else
    replayed: int  # records that came again, or too late to tell
    lost: int  # messages that the program had no room for
    unsent: int  # messages that the path or the socket did not take


class Info(NamedTuple):
    """The state of an association."""

    tx: Direction
    rx: Direction
    drops: Optional[Drops] = None  # of datagrams


class Off(NamedTuple):
    """The association, which the daemon has forgotten."""

    state: bytearray  # what aftls.State.UnmarshalBinary takes: it has keys in it
    undelivered: bytes  # data that is behind everything in the data socket

    def __repr__(self) -> str:
        return "<Off>"  # and nothing of what is in it


class End(NamedTuple):
    """The association is over: error is an errno, or 0 for the clean end."""

    error: int
    text: str


class Warned(NamedTuple):
    """Something happened that the association over datagrams goes on after: error is an
    errno. With EMSGSIZE, limit is the longest message that the path takes, or 0.
    """

    error: int
    text: str
    limit: int


Message = Union[Record, Answer, Info, Off, End, Warned]


class Control:
    """A control descriptor: control records, and the association itself.

    The methods that send or ask send one message. Each is answered by one message,
    in the order of the sending, which receive returns: Answer, but for ask_info and
    ask_off. They raise BrokenPipeError or ConnectionResetError when the association
    is over: receive may still have its End. A program that sends many without
    receiving waits for itself in the end. One thread may receive while others send.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Takes sock, as handoff makes it."""
        self._sock = sock
        self._off = bytearray()

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._sock.fileno()

    def close(self) -> None:
        """Closes the descriptor. The association goes on."""
        self._sock.close()

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, kind: int, type: int = 0, body: Bytes = b"") -> None:
        head = _MESSAGE.pack(kind, type, 0, len(body), 0)
        self._sock.sendmsg([head, body], [], socket.MSG_NOSIGNAL)

    def send_record(self, type: int, payload: Bytes) -> None:
        """Sends a control record of a content type, up to 16384 bytes, behind all
        data that was written before. Data that is to follow it has to be written
        behind the answer. EMSGSIZE: it is longer.
        """
        if len(payload) > MAX_RECORD:
            raise OSError(errno.EMSGSIZE, "a record holds at most 16384 bytes")
        self._send(_RECORD, type, payload)

    def send_keys(self, direction: int, keys: CryptoInfo) -> None:
        """Gives the keys behind a KeyUpdate, to send (TX) or to receive (RX) with, of
        the version and cipher that the association has. Between a KeyUpdate that it
        sends and the answer to its keys a program writes no data.
        """
        self._send(_KEYS, direction, keys._packed)

    def ask_info(self) -> None:
        """Asks for the state: Info."""
        self._send(_INFO)

    def ask_rekey(self) -> None:
        """Asks for a KeyUpdate in both directions. With traffic secrets only."""
        self._send(_REKEY)

    def ask_off(self) -> None:
        """Asks for the association back: Off."""
        self._send(_OFF)

    def receive(self) -> Optional[Message]:
        """Receives the next message, or None behind the last one. That is End or Off:
        None without either means that the daemon died. OSError EBADMSG is what is no
        message of this protocol.
        """
        while True:
            try:
                b, _, flags = _receive(self._sock, _MESSAGE.size + MAX_RECORD)
            except ConnectionResetError:
                return None
            if not b:
                return None
            body = memoryview(b)[_MESSAGE.size :]
            if len(b) < _MESSAGE.size or flags & socket.MSG_TRUNC:
                raise OSError(errno.EBADMSG, "not a control message")
            kind, type, more, length, offset = _MESSAGE.unpack_from(b)
            if length != len(body):
                raise OSError(errno.EBADMSG, "not a control message")
            if kind == _RECORD:
                return Record(type, bytes(body), offset)
            if kind in (_ANSWER, _END) and length >= _ERROR.size:
                error = _ERROR.unpack_from(body)[0]
                return (Answer if kind == _ANSWER else End)(error, _text(body[_ERROR.size :]))
            if kind == _WARNING and length >= _ERROR.size:
                return Warned(_ERROR.unpack_from(body)[0], _text(body[_ERROR.size :]), offset)
            if kind == _INFO and length >= 2 * _DIRECTION.size:
                at = 2 * _DIRECTION.size
                drops = Drops(*_DROPS.unpack_from(body, at)) if length >= at + _DROPS.size else None
                return Info(_direction(body, 0), _direction(body, _DIRECTION.size), drops)
            if kind != _OFF:
                raise OSError(errno.EBADMSG, "not a control message")
            self._off += body
            body[:] = bytes(len(body))
            if not more & _MORE:
                return self._whole()

    def _whole(self) -> Off:
        b, self._off = self._off, bytearray()
        n = _ERROR.unpack_from(b)[0] if len(b) >= _ERROR.size else len(b)
        if n > len(b) - _ERROR.size:
            raise OSError(errno.EBADMSG, "not the state of an association")
        off = Off(b[_ERROR.size : _ERROR.size + n], bytes(b[_ERROR.size + n :]))
        b[:] = bytes(len(b))
        return off


def _direction(b: Bytes, at: int) -> Direction:
    version, suite, _, seq, records, count, epoch = _DIRECTION.unpack_from(b, at)
    return Direction(version, suite, seq, records, count, epoch)
