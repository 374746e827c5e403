// One end of a DTLS 1.3 connection, by wolfSSL, that tells its secrets:
//
//	wolfssl server PORT SUITE CID CERT KEY
//	wolfssl client PORT SUITE CID CA NAME
//
// CID is what the peer is to put into its records, in hexadecimal; with "" the peer
// puts in none, with "-" neither end does.
// Lines of standard input: "rekey" sends a KeyUpdate, another is a message. What
// comes, and the secrets in the form of a key log, goes to standard output.
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <wolfssl/wolfcrypt/settings.h>
#include <wolfssl/ssl.h>

static void die(const char *what, int err)
{
	char why[WOLFSSL_MAX_ERROR_SZ];
	fprintf(stderr, "%s: %s\n", what, wolfSSL_ERR_error_string(err, why));
	exit(1);
}

static void must(int ok, const char *what)
{
	if (ok != WOLFSSL_SUCCESS)
		die(what, ok);
}

static int secret(WOLFSSL *ssl, int id, const unsigned char *s, int n, void *ctx)
{
	const char *name = NULL;
	switch (id) {
	case CLIENT_HANDSHAKE_TRAFFIC_SECRET: name = "CLIENT_HANDSHAKE_TRAFFIC_SECRET"; break;
	case SERVER_HANDSHAKE_TRAFFIC_SECRET: name = "SERVER_HANDSHAKE_TRAFFIC_SECRET"; break;
	case CLIENT_TRAFFIC_SECRET: name = "CLIENT_TRAFFIC_SECRET_0"; break;
	case SERVER_TRAFFIC_SECRET: name = "SERVER_TRAFFIC_SECRET_0"; break;
	default: return 0;
	}
	printf("%s 00 ", name);
	for (int i = 0; i < n; i++)
		printf("%02x", s[i]);
	printf("\n");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 7)
		return 2;
	int server = strcmp(argv[1], "server") == 0;
	setvbuf(stdout, NULL, _IONBF, 0);
	wolfSSL_Init();
	WOLFSSL_CTX *ctx = wolfSSL_CTX_new(server ? wolfDTLSv1_3_server_method() : wolfDTLSv1_3_client_method());
	if (ctx == NULL)
		die("CTX_new", 0);
	must(wolfSSL_CTX_set_cipher_list(ctx, argv[3]), argv[3]);
	if (server) {
		must(wolfSSL_CTX_use_certificate_file(ctx, argv[5], WOLFSSL_FILETYPE_PEM), argv[5]);
		must(wolfSSL_CTX_use_PrivateKey_file(ctx, argv[6], WOLFSSL_FILETYPE_PEM), argv[6]);
	} else {
		must(wolfSSL_CTX_load_verify_locations(ctx, argv[5], NULL), argv[5]);
	}

	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t at_len = sizeof at;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (server) {
		char head[1];
		if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || recvfrom(fd, head, 1, MSG_PEEK, (struct sockaddr *)&at, &at_len) < 0)
			die("bind", 0);
	}
	if (connect(fd, (struct sockaddr *)&at, at_len) != 0)
		die("connect", 0);

	WOLFSSL *ssl = wolfSSL_new(ctx);
	must(wolfSSL_set_fd(ssl, fd), "set_fd");
	must(wolfSSL_dtls_set_peer(ssl, &at, at_len), "set_peer");
	wolfSSL_KeepArrays(ssl);
	must(wolfSSL_set_tls13_secret_cb(ssl, secret, NULL), "set_tls13_secret_cb");
	if (strcmp(argv[4], "-") != 0) {
		unsigned char cid[255];
		unsigned n = strlen(argv[4]) / 2;
		for (unsigned i = 0; i < n && i < sizeof cid; i++)
			sscanf(argv[4] + 2 * i, "%2hhx", &cid[i]);
		must(wolfSSL_dtls_cid_use(ssl), "cid_use");
		if (n > 0)
			must(wolfSSL_dtls_cid_set(ssl, cid, n), "cid_set");
	}
	if (!server)
		must(wolfSSL_check_domain_name(ssl, argv[6]), argv[6]);
	int ok = server ? wolfSSL_accept(ssl) : wolfSSL_connect(ssl);
	if (ok != WOLFSSL_SUCCESS)
		die("handshake", wolfSSL_get_error(ssl, ok));
	printf("connected with %s\n", wolfSSL_get_cipher_name(ssl));

	fcntl(fd, F_SETFL, O_NONBLOCK);
	wolfSSL_dtls_set_using_nonblock(ssl, 1);
	struct pollfd fds[2] = {{.fd = 0, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
	for (;;) {
		char line[16384];
		int ready = poll(fds, 2, 200);
		if (ready < 0)
			return 1;
		if (ready == 0)
			wolfSSL_dtls_got_timeout(ssl); // also sends the ACKs that wait
		if (fds[0].revents) {
			ssize_t n = read(0, line, sizeof line);
			if (n <= 0)
				break;
			if (n == 6 && memcmp(line, "rekey\n", 6) == 0) {
				must(wolfSSL_update_keys(ssl), "update_keys");
				printf("rekeyed\n"); // to be used when the peer has acknowledged it
			} else if (wolfSSL_write(ssl, line, n) != n)
				die("write", wolfSSL_get_error(ssl, -1));
		}
		for (;;) {
			int n = wolfSSL_read(ssl, line, sizeof line);
			if (n > 0) {
				fwrite(line, 1, n, stdout);
				continue;
			}
			int err = wolfSSL_get_error(ssl, n);
			if (err == WOLFSSL_ERROR_WANT_READ || err == WOLFSSL_ERROR_WANT_WRITE)
				break;
			if (err == WOLFSSL_ERROR_ZERO_RETURN) {
				printf("closed by the peer\n");
				return 0;
			}
			die("read", err);
		}
	}
	wolfSSL_shutdown(ssl);
	return 0;
}
