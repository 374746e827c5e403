// One end of a DTLS 1.2 association with Connection IDs (RFC 9146), by mbed TLS:
//
//	mbedtls server PORT CID CERT KEY
//	mbedtls client PORT CID CA NAME
//
// CID is what the peer is to put into its records, in hexadecimal. What comes goes
// to standard output, and each line of standard input is a message.
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <mbedtls/build_info.h>
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_cookie.h>
#include <mbedtls/timing.h>
#include <psa/crypto.h>

#if MBEDTLS_VERSION_MAJOR < 3 || !defined(MBEDTLS_SSL_DTLS_CONNECTION_ID)
#error "this mbed TLS has no Connection IDs of RFC 9146"
#endif

static void must(int ret, const char *what)
{
	if (ret < 0) {
		fprintf(stderr, "%s: -0x%x\n", what, -ret);
		exit(1);
	}
}

static void print_cid(const char *whose, const unsigned char *cid, size_t n)
{
	printf("%s CID ", whose);
	for (size_t i = 0; i < n; i++)
		printf("%02x", cid[i]);
	printf(".\n");
}

int main(int argc, char **argv)
{
	if (argc != 6)
		return 2;
	int server = strcmp(argv[1], "server") == 0;
	const char *port = argv[2];
	unsigned char cid[MBEDTLS_SSL_CID_IN_LEN_MAX];
	size_t cid_len = strlen(argv[3]) / 2;
	for (size_t i = 0; i < cid_len && i < sizeof cid; i++)
		sscanf(argv[3] + 2 * i, "%2hhx", &cid[i]);
	setvbuf(stdout, NULL, _IONBF, 0);

	mbedtls_entropy_context entropy;
	mbedtls_ctr_drbg_context rng;
	mbedtls_ssl_cookie_ctx cookies;
	mbedtls_x509_crt cert;
	mbedtls_pk_context key;
	mbedtls_ssl_config conf;
	mbedtls_ssl_context ssl;
	mbedtls_timing_delay_context timer;
	mbedtls_net_context listener, net;
	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&rng);
	mbedtls_ssl_cookie_init(&cookies);
	mbedtls_x509_crt_init(&cert);
	mbedtls_pk_init(&key);
	mbedtls_ssl_config_init(&conf);
	mbedtls_ssl_init(&ssl);
	mbedtls_net_init(&listener);
	mbedtls_net_init(&net);
	psa_crypto_init();
	must(mbedtls_ctr_drbg_seed(&rng, mbedtls_entropy_func, &entropy, NULL, 0), "seed");

	must(mbedtls_ssl_config_defaults(&conf, server ? MBEDTLS_SSL_IS_SERVER : MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_DATAGRAM, MBEDTLS_SSL_PRESET_DEFAULT), "defaults");
	mbedtls_ssl_conf_rng(&conf, mbedtls_ctr_drbg_random, &rng);
	mbedtls_ssl_conf_max_tls_version(&conf, MBEDTLS_SSL_VERSION_TLS1_2);
	mbedtls_ssl_conf_handshake_timeout(&conf, 300, 2000);
	must(mbedtls_ssl_conf_cid(&conf, cid_len, MBEDTLS_SSL_UNEXPECTED_CID_IGNORE), "conf_cid");
	must(mbedtls_x509_crt_parse_file(&cert, argv[4]), argv[4]);
	if (server) {
		must(mbedtls_pk_parse_keyfile(&key, argv[5], NULL, mbedtls_ctr_drbg_random, &rng), argv[5]);
		must(mbedtls_ssl_conf_own_cert(&conf, &cert, &key), "own_cert");
		must(mbedtls_ssl_cookie_setup(&cookies, mbedtls_ctr_drbg_random, &rng), "cookies");
		mbedtls_ssl_conf_dtls_cookies(&conf, mbedtls_ssl_cookie_write, mbedtls_ssl_cookie_check, &cookies);
	} else {
		mbedtls_ssl_conf_ca_chain(&conf, &cert, NULL);
	}
	must(mbedtls_ssl_setup(&ssl, &conf), "setup");
	mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay, mbedtls_timing_get_delay);

	unsigned char from[16];
	size_t from_len = 0;
	if (server) {
		must(mbedtls_net_bind(&listener, "127.0.0.1", port, MBEDTLS_NET_PROTO_UDP), "bind");
		must(mbedtls_net_accept(&listener, &net, from, sizeof from, &from_len), "accept");
	} else {
		must(mbedtls_ssl_set_hostname(&ssl, argv[5]), "hostname");
		must(mbedtls_net_connect(&net, "127.0.0.1", port, MBEDTLS_NET_PROTO_UDP), "connect");
	}
	mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, mbedtls_net_recv_timeout);
	int ret;
	do { // from the start, or again with the cookie
		must(mbedtls_ssl_session_reset(&ssl), "reset");
		must(mbedtls_ssl_set_cid(&ssl, MBEDTLS_SSL_CID_ENABLED, cid, cid_len), "set_cid");
		if (server)
			must(mbedtls_ssl_set_client_transport_id(&ssl, from, from_len), "transport id");
		do
			ret = mbedtls_ssl_handshake(&ssl);
		while (ret == MBEDTLS_ERR_SSL_WANT_READ || ret == MBEDTLS_ERR_SSL_WANT_WRITE);
	} while (ret == MBEDTLS_ERR_SSL_HELLO_VERIFY_REQUIRED);
	must(ret, "handshake");

	unsigned char peer[MBEDTLS_SSL_CID_OUT_LEN_MAX];
	size_t peer_len = 0;
	int enabled = 0;
	must(mbedtls_ssl_get_peer_cid(&ssl, &enabled, peer, &peer_len), "get_peer_cid");
	print_cid("our", cid, enabled ? cid_len : 0);
	print_cid("peer's", peer, enabled ? peer_len : 0);
	printf("%s\n", mbedtls_ssl_get_ciphersuite(&ssl));

	mbedtls_net_set_nonblock(&net); // the other way to read waits, and longer than we can
	mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
	struct pollfd fds[2] = {{.fd = 0, .events = POLLIN}, {.fd = net.fd, .events = POLLIN}};
	for (;;) {
		char line[16384];
		if (poll(fds, 2, 100) < 0)
			return 1;
		if (fds[0].revents) {
			ssize_t n = read(0, line, sizeof line);
			if (n <= 0)
				break;
			must(mbedtls_ssl_write(&ssl, (unsigned char *)line, n), "write");
		}
		// Also without anything to read: the peer's last flight may have to be answered.
		while ((ret = mbedtls_ssl_read(&ssl, (unsigned char *)line, sizeof line)) > 0)
			fwrite(line, 1, ret, stdout);
		if (ret == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY) {
			printf("closed by the peer\n");
			break;
		}
		if (ret != MBEDTLS_ERR_SSL_WANT_READ && ret != MBEDTLS_ERR_SSL_WANT_WRITE && ret != MBEDTLS_ERR_SSL_TIMEOUT)
			must(ret, "read");
	}
	mbedtls_ssl_close_notify(&ssl);
	return 0;
}
