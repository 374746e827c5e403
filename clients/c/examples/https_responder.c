/*
 * An HTTPS server for one request. OpenSSL does the handshake; then the daemon has
 * the record layer, and the program reads and writes a plain descriptor.
 *
 *	https_responder CERT.pem KEY.pem [SOCKET]
 *
 * It says its address on standard output. SOCKET is the daemon's.
 */
#define _GNU_SOURCE
#include "aftls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct secrets {
	unsigned char client[48], server[48];
	size_t client_length, server_length;
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "https_responder: %s: %s\n", what, why);
	ERR_print_errors_fp(stderr);
	exit(1);
}

/* Lines of a key log are LABEL, the client's random and the secret, in hex. */
static size_t secret_of(const char *line, const char *label, unsigned char secret[48])
{
	const char *p = strrchr(line, ' ');
	unsigned byte;
	size_t n = 0;

	if (!p || strncmp(line, label, strlen(label)) != 0 || line[strlen(label)] != ' ')
		return 0;
	for (p++; n < 48 && sscanf(p + 2 * n, "%2x", &byte) == 1; n++)
		secret[n] = (unsigned char)byte;
	return n;
}

static void on_key_log(const SSL *ssl, const char *line)
{
	struct secrets *s = SSL_get_app_data(ssl);
	size_t n;

	if ((n = secret_of(line, "CLIENT_TRAFFIC_SECRET_0", s->client)) > 0)
		s->client_length = n;
	if ((n = secret_of(line, "SERVER_TRAFFIC_SECRET_0", s->server)) > 0)
		s->server_length = n;
}

static uint16_t cipher_of(const SSL *ssl)
{
	switch (SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(ssl))) {
	case 0x1301:
		return TLS_CIPHER_AES_GCM_128;
	case 0x1302:
		return TLS_CIPHER_AES_GCM_256;
	case 0x1303:
		return TLS_CIPHER_CHACHA20_POLY1305;
	}
	return 0;
}

/* hand_off gives a connection whose handshake is done to the daemon. */
static int hand_off(const char *path, SSL *ssl, int tcp)
{
	struct secrets *s = SSL_get_app_data(ssl);
	uint16_t cipher = cipher_of(ssl);
	struct aftls_traffic_secret tx, rx;
	struct aftls_handoff h;
	struct aftls_error why;
	int daemon, data;

	/*
	 * TLS 1.3 and no session tickets: then the handshake is all that was sent
	 * and received, and the first record under either traffic secret is number
	 * 0. OpenSSL reads from the socket no byte more than the record that it
	 * waits for (SSL_CTX_set_read_ahead is off): nothing is unread.
	 */
	if (SSL_has_pending(ssl))
		die("hand-off", "OpenSSL has read ahead");
	memset(&h, 0, sizeof h);
	h.carrier = tcp;
	h.form = AFTLS_TRAFFIC_SECRET;
	h.length = sizeof tx;
	h.tx = &tx;
	h.rx = &rx;
	if ((daemon = aftls_connect(path)) < 0 ||
	    aftls_set_secret(&tx, cipher, s->server, s->server_length, 0) < 0 ||
	    aftls_set_secret(&rx, cipher, s->client, s->client_length, 0) < 0)
		die("daemon and keys", strerror(errno));
	if ((data = aftls_hand_off(daemon, &h, NULL, &why)) < 0)
		die("hand-off", why.text);
	explicit_bzero(&tx, sizeof tx);
	explicit_bzero(&rx, sizeof rx);
	explicit_bzero(s, sizeof *s);
	close(daemon);
	close(tcp);
	return data;
}

static void respond(int data)
{
	static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n";
	char request[16384];
	size_t n = 0;
	ssize_t m;

	do {
		m = read(data, request + n, sizeof request - 1 - n);
		if (m <= 0)
			die("reading the request", m < 0 ? strerror(errno) : "it ended too soon");
		n += (size_t)m;
		request[n] = 0;
	} while (!strstr(request, "\r\n\r\n") && n < sizeof request - 1);
	request[strcspn(request, "\r\n")] = 0;
	/* Whoever has gone away must not end the program: MSG_NOSIGNAL. */
	if (send(data, head, sizeof head - 1, MSG_NOSIGNAL) < 0 ||
	    send(data, request, strlen(request), MSG_NOSIGNAL) < 0 ||
	    send(data, "\n", 1, MSG_NOSIGNAL) < 0)
		die("writing the response", strerror(errno));
	close(data); /* what was written is sent, and close_notify behind it */
}

int main(int argc, char **argv)
{
	struct sockaddr_in a;
	socklen_t size = sizeof a;
	struct secrets secrets;
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int tcp, data;
	SSL *ssl;

	if (argc < 3)
		die("usage", "https_responder CERT.pem KEY.pem [SOCKET]");
	if (!ctx || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_num_tickets(ctx, 0) != 1 ||
	    SSL_CTX_use_certificate_chain_file(ctx, argv[1]) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, argv[2], SSL_FILETYPE_PEM) != 1)
		die("certificate", argv[1]);
	SSL_CTX_set_keylog_callback(ctx, on_key_log);
	memset(&a, 0, sizeof a);
	a.sin_family = AF_INET;
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&a, &size) < 0)
		die("listening", strerror(errno));
	printf("listening https://127.0.0.1:%d/\n", ntohs(a.sin_port));
	fflush(stdout);
	tcp = accept(listener, NULL, NULL);
	if (tcp < 0)
		die("accept", strerror(errno));
	close(listener);

	memset(&secrets, 0, sizeof secrets);
	ssl = SSL_new(ctx);
	if (!ssl || SSL_set_app_data(ssl, &secrets) != 1 || SSL_set_fd(ssl, tcp) != 1 || SSL_accept(ssl) != 1)
		die("handshake", "failed");
	data = hand_off(argv[3], ssl, tcp);
	SSL_free(ssl); /* without SSL_shutdown: the connection is not OpenSSL's any more */
	SSL_CTX_free(ctx);
	respond(data);
	return 0;
}
