/*
 * An echo of datagrams on a TLS socket. OpenSSL does the handshake of DTLS 1.2; then
 * the keys go to a socket of AF_TLS, and each read(2) and write(2) is one datagram.
 *
 *   cc -I clients/c -o dtls_echo examples/af_tls/dtls_echo.c -lssl -lcrypto
 *   aftls run -- ./dtls_echo 4433 cert.pem key.pem
 *   openssl s_client -dtls1_2 -connect localhost:4433
 *
 * It serves one peer after the other. A server for everybody would ask for a cookie
 * first (DTLSv1_listen), and would wait for the first message before it gives the
 * keys away: a peer that lost the end of the handshake asks OpenSSL for it, not us.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/ssl.h>
#include "aftls.h"

static unsigned char sent[8];	/* epoch and number of our last record */

/* OpenSSL shows the headers of its records: type, version, epoch and number, length. */
static void watch(int write, int version, int type, const void *p, size_t n, SSL *ssl, void *arg)
{
	(void)version, (void)ssl, (void)arg;
	if (write && type == SSL3_RT_HEADER && n == 13)
		memcpy(sent, (const char *)p + 3, 8);
}

/* The key block of RFC 5246, 6.3. */
static int key_block(SSL *ssl, unsigned char *out, size_t n)
{
	unsigned char master[48], client[32], server[32];
	EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_id(EVP_PKEY_TLS1_PRF, NULL);
	int ok;

	SSL_SESSION_get_master_key(SSL_get_session(ssl), master, sizeof(master));
	SSL_get_client_random(ssl, client, sizeof(client));
	SSL_get_server_random(ssl, server, sizeof(server));
	ok = c && EVP_PKEY_derive_init(c) > 0 && EVP_PKEY_CTX_set_tls1_prf_md(c, EVP_sha256()) > 0 &&
	     EVP_PKEY_CTX_set1_tls1_prf_secret(c, master, sizeof(master)) > 0 &&
	     EVP_PKEY_CTX_add1_tls1_prf_seed(c, (const unsigned char *)"key expansion", 13) > 0 &&
	     EVP_PKEY_CTX_add1_tls1_prf_seed(c, server, 32) > 0 &&
	     EVP_PKEY_CTX_add1_tls1_prf_seed(c, client, 32) > 0 && EVP_PKEY_derive(c, out, &n) > 0;
	EVP_PKEY_CTX_free(c);
	OPENSSL_cleanse(master, sizeof(master));
	return ok;
}

/* The keys of one direction, and the record behind epoch and number. */
static void fill(struct tls12_crypto_info_aes_gcm_128 *k, const unsigned char *key, const unsigned char *salt,
		 const unsigned char *last)
{
	int i;

	memset(k, 0, sizeof(*k));
	k->info.version = AFTLS_DTLS_1_2;
	k->info.cipher_type = TLS_CIPHER_AES_GCM_128;
	memcpy(k->key, key, 16);
	memcpy(k->salt, salt, 4);
	memcpy(k->rec_seq, last, 8);
	for (i = 7; i > 1 && ++k->rec_seq[i] == 0; i--)
		;
}

static void serve(int udp, SSL *ssl)
{
	static const unsigned char finished[8] = { 0, 1 };	/* all that came under the keys so far */
	struct tls12_crypto_info_aes_gcm_128 tx, rx;
	struct sockaddr_tls sa = { .family = AF_TLS, .fd = udp };
	unsigned char block[40];	/* client key, server key, client salt, server salt */
	char message[AFTLS_MAX_RECORD];
	ssize_t n;
	int tls;

	if (!key_block(ssl, block, sizeof(block)))
		return;
	fill(&tx, block + 16, block + 36, sent);
	fill(&rx, block, block + 32, finished);
	tls = socket(AF_TLS, SOCK_DGRAM, 0);
	if (tls < 0 || bind(tls, (struct sockaddr *)&sa, sizeof(sa)) != 0 ||
	    setsockopt(tls, SOL_TLS, TLS_TX, &tx, sizeof(tx)) != 0 ||
	    setsockopt(tls, SOL_TLS, TLS_RX, &rx, sizeof(rx)) != 0)
		perror("AF_TLS"), exit(1);
	while ((n = read(tls, message, sizeof(message))) > 0)
		if (write(tls, message, n) < 0)
			perror("write");
	close(tls);	/* sends close_notify */
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(argc > 3 ? atoi(argv[1]) : 0),
				 .sin_addr = { htonl(INADDR_LOOPBACK) } };
	SSL_CTX *ctx = SSL_CTX_new(DTLS_server_method());

	SSL_CTX_set_min_proto_version(ctx, DTLS1_2_VERSION);
	SSL_CTX_set_cipher_list(ctx, "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256");
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_msg_callback(ctx, watch);
	if (argc != 4 || SSL_CTX_use_certificate_chain_file(ctx, argv[2]) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, argv[3], SSL_FILETYPE_PEM) != 1)
		return fprintf(stderr, "usage: dtls_echo PORT CERT KEY\n"), 1;
	for (;;) {
		struct sockaddr_in peer;
		socklen_t len = sizeof(peer);
		int one = 1, udp = socket(AF_INET, SOCK_DGRAM, 0);
		SSL *ssl = SSL_new(ctx);
		BIO *bio = BIO_new_dgram(udp, BIO_NOCLOSE);

		setsockopt(udp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(udp, (struct sockaddr *)&a, sizeof(a)) != 0)
			return perror("bind"), 1;
		/* The first datagram says who the peer is, and is OpenSSL's to read. */
		if (recvfrom(udp, &one, 1, MSG_PEEK, (struct sockaddr *)&peer, &len) >= 0 &&
		    connect(udp, (struct sockaddr *)&peer, len) == 0) {
			BIO_ctrl(bio, BIO_CTRL_DGRAM_SET_CONNECTED, 0, &peer);
			SSL_set_bio(ssl, bio, bio);
			if (SSL_accept(ssl) == 1)
				serve(udp, ssl);
		}
		SSL_free(ssl);
		close(udp);
	}
}
