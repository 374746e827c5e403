/*
 * An HTTPS responder on a TLS socket. OpenSSL does the handshake; then the
 * traffic secrets go to a socket of AF_TLS, and HTTP is read(2) and write(2).
 *
 *   cc -I clients/c -o responder examples/af_tls/responder.c -lssl -lcrypto
 *   aftls run -- ./responder 8443 cert.pem key.pem
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include "aftls.h"

static struct aftls_traffic_secret tx, rx;

/* OpenSSL shows its secrets as the lines of a key log: LABEL random secret. */
static void keylog(const SSL *ssl, const char *line)
{
	struct aftls_traffic_secret *s = strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) == 0 ? &tx :
					 strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0 ? &rx : NULL;
	const char *hex = strrchr(line, ' ') + 1;
	size_t n;

	(void)ssl;
	if (s == NULL)
		return;
	memset(s, 0, sizeof(*s));
	s->version = 0x0304;
	s->cipher_type = TLS_CIPHER_AES_GCM_128;
	for (n = 0; n < 32 && sscanf(hex + 2 * n, "%2hhx", &s->secret[n]) == 1; n++)
		;
	s->secret_len = n;
}

int main(int argc, char **argv)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\nConnection: close\r\n\r\nover a real TLS fd!\n";
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(argc > 3 ? atoi(argv[1]) : 0),
				 .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	char request[4096];

	SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256");
	SSL_CTX_set_num_tickets(ctx, 0);	/* so that our first record has the number 0 */
	SSL_CTX_set_keylog_callback(ctx, keylog);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (argc != 4 || SSL_CTX_use_certificate_chain_file(ctx, argv[2]) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, argv[3], SSL_FILETYPE_PEM) != 1 ||
	    bind(listener, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(listener, 64) != 0)
		return fprintf(stderr, "usage: responder PORT CERT KEY\n"), 1;
	for (;;) {
		int tcp = accept(listener, NULL, NULL), tls;
		SSL *ssl = SSL_new(ctx);

		SSL_set_fd(ssl, tcp);
		if (SSL_accept(ssl) == 1) {
			struct sockaddr_tls sa = { .family = AF_TLS, .fd = tcp };

			tls = socket(AF_TLS, SOCK_STREAM, 0);
			if (tls < 0 || bind(tls, (struct sockaddr *)&sa, sizeof(sa)) != 0 ||
			    setsockopt(tls, SOL_TLS, AFTLS_TX_SECRET, &tx, sizeof(tx)) != 0 ||
			    setsockopt(tls, SOL_TLS, AFTLS_RX_SECRET, &rx, sizeof(rx)) != 0)
				return perror("AF_TLS"), 1;
			if (read(tls, request, sizeof(request)) > 0 && write(tls, answer, sizeof(answer) - 1) < 0)
				perror("write");
			close(tls);	/* sends close_notify */
		}
		SSL_free(ssl);
		close(tcp);
	}
}
