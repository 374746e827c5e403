"""An HTTPS server for one request. Python's ssl module does the handshake; then the
daemon has the record layer, and the program reads and writes a plain socket.

    PYTHONPATH=clients/python python3 https_responder.py CERT.pem KEY.pem [SOCKET]

It says its address on standard output. SOCKET is the daemon's.
"""

import os
import socket
import ssl
import sys

import aftls

CIPHERS = {
    "TLS_AES_128_GCM_SHA256": aftls.AES_128_GCM,
    "TLS_AES_256_GCM_SHA384": aftls.AES_256_GCM,
    "TLS_CHACHA20_POLY1305_SHA256": aftls.CHACHA20_POLY1305,
}


def handshake(sock, cert, key):
    """Does the handshake, and returns cipher, the secrets of client and server, and
    what was read behind the handshake.
    """
    # The module tells the secrets to a file only: this one is in memory. A context
    # of its own for each handshake keeps the secrets apart.
    log = os.memfd_create("key log", os.MFD_CLOEXEC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Without tickets the handshake is all that was sent: the next record of either
    # side is number 0 under its traffic secret.
    context.num_tickets = 0
    context.keylog_filename = f"/proc/self/fd/{log}"
    context.load_cert_chain(cert, key)
    # A MemoryBIO keeps what OpenSSL did not take: whole records, since it takes no
    # byte more than the record that it waits for.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            b = sock.recv(1 << 16)
            if not b:
                raise ConnectionResetError("the client ended the handshake") from None
            incoming.write(b)
    sock.sendall(outgoing.read())
    lines = [line.split() for line in os.pread(log, 1 << 16, 0).decode().splitlines()]
    os.close(log)
    secrets = {line[0]: bytes.fromhex(line[-1]) for line in lines if len(line) == 3}
    return (CIPHERS[tls.cipher()[0]], secrets["CLIENT_TRAFFIC_SECRET_0"],
            secrets["SERVER_TRAFFIC_SECRET_0"], incoming.read())


def respond(data):
    request = b""
    while b"\r\n\r\n" not in request:
        b = data.recv(1 << 16)
        if not b:
            raise ConnectionResetError("the request ended too soon")
        request += b
    data.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
    data.sendall(request.split(b"\r\n")[0] + b"\n")


def main():
    cert, key = sys.argv[1:3]
    path = sys.argv[3] if len(sys.argv) > 3 else None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"listening https://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
        sock, _ = listener.accept()
    with sock:
        cipher, client, server, unread = handshake(sock, cert, key)
        tx = aftls.TrafficSecret(cipher, server)
        rx = aftls.TrafficSecret(cipher, client)
        data, _ = aftls.handoff(sock, tx, rx, unread=unread, path=path)
    print(f"handed off with {len(unread)} bytes unread", flush=True)
    with data:  # the end sends what was written, and close_notify behind it
        respond(data)


main()
