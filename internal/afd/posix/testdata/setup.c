/* Making TLS sockets, and what is refused. */
#include "posix.h"
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef TLS_TX_ZEROCOPY_RO
#define TLS_TX_ZEROCOPY_RO 3
#endif
#ifndef TLS_RX_EXPECT_NO_PAD
#define TLS_RX_EXPECT_NO_PAD 4
#endif
#ifndef TLS_TX_MAX_PAYLOAD_LEN
#define TLS_TX_MAX_PAYLOAD_LEN 5
#endif

static char got[4096];

static int ulp_on(int fd) { return setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls"); }

static int listener(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	MUST(fd);
	MUST(bind(fd, (struct sockaddr *)&in, sizeof in));
	MUST(listen(fd, 1));
	return fd;
}

static void c_ulp(void)
{
	int fd[2], un = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0), ln = listener(), u[2];

	tcp_pair(fd);
	ERR(setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, "no-such", sizeof "no-such"), ENOENT);
	ERR(set_key(fd[0], TLS_TX, 0), ENOPROTOOPT);
	ERR(setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, (void *)8, 4), EFAULT);
	ERR(setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, "tls", 0), EINVAL);
	ERR(ulp_on(un), ENOTCONN);
	ERR(ulp_on(ln), ENOTCONN);
	ERR(ulp_on(-1), EBADF);
	ERR(ulp_on(0), ENOTSOCK);
	TRUE(ulp_on(udp) == -1);
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
	TRUE(ulp_on(u[0]) == -1);
	EQ(ulp_on(fd[0]), 0);
	ERR(ulp_on(fd[0]), EEXIST);
	/* Without keys it passes what it gets. */
	EQ(write(fd[0], "plain", 5), 5);
	EQ(read_all(fd[1], got, 5), 5);
	SAME(got, "plain", 5);
	EQ(set_key(fd[0], TLS_TX, 0), 0);
	ERR(ulp_on(fd[0]), EEXIST);
	char name[8] = "";
	socklen_t len = sizeof name;
	EQ(getsockopt(fd[0], IPPROTO_TCP, TCP_ULP, name, &len), 0);
	EQ(strcmp(name, "tls"), 0);
	close(un);
	close(udp);
	close(ln);
	close(u[0]);
	close(u[1]);
	close(fd[0]);
	close(fd[1]);
}

static void bad_keys(int fd, int option)
{
	struct tls12_crypto_info_aes_gcm_128 k = key(0);
	char room[sizeof k + 64];

	memset(room, 0, sizeof room);
	memcpy(room, &k, sizeof k);
	for (size_t n = 0; n < sizeof room; n++)
		if (n != sizeof k)
			ERR(setsockopt(fd, SOL_TLS, option, room, n), EINVAL);
	ERR(setsockopt(fd, SOL_TLS, option, &k, -1), EINVAL);
	ERR(setsockopt(fd, SOL_TLS, option, &k, 1 << 20), EINVAL);
	ERR(setsockopt(fd, SOL_TLS, option, (void *)8, sizeof k), EFAULT);
	for (int c = 0; c < 70; c++) {
		if (c == TLS_CIPHER_AES_GCM_128)
			continue;
		k.info.cipher_type = c;
		ERR(setsockopt(fd, SOL_TLS, option, &k, sizeof k), EINVAL);
	}
	k = key(0);
	for (int v = 0x300; v < 0x306; v++) {
		if (v == TLS_1_2_VERSION || v == TLS_1_3_VERSION)
			continue;
		k.info.version = v;
		ERR(setsockopt(fd, SOL_TLS, option, &k, sizeof k), EINVAL);
	}
}

static void c_bad_keys(void)
{
	int fd[2];

	tcp_pair(fd);
	a = unkeyed(fd[0]);
	b = fd[1];
	bad_keys(a, TLS_TX);
	bad_keys(a, TLS_RX);
	ERR(setsockopt(a, SOL_TLS, 55, "x", 1), ENOPROTOOPT);
	struct tls12_crypto_info_aes_gcm_128 k;
	socklen_t len = sizeof k;
	ERR(getsockopt(a, SOL_TLS, TLS_TX, &k, &len), aftls ? EBUSY : ulp ? EBUSY : 0);
	/* It can still be keyed; the directions agree. */
	EQ(set_key(a, TLS_TX, 0), 0);
	k = key(1);
	k.info.version = TLS_1_2_VERSION;
	ERR(setsockopt(a, SOL_TLS, TLS_RX, &k, sizeof k), EINVAL);
	bad_keys(a, TLS_RX);
	EQ(set_key(a, TLS_RX, 1), 0);
	bad_keys(a, TLS_TX);
	EQ(write(a, "x", 1), 1);
	EQ(wire_record(b), 1);
	close_pair();
}

static void c_ciphers(void)
{
	struct tls12_crypto_info_aes_gcm_256 g;
	struct tls12_crypto_info_chacha20_poly1305 c;

	for (int v = TLS_1_2_VERSION; v <= TLS_1_3_VERSION; v++)
		for (int i = 0; i < 2; i++) {
			int fd[2];
			void *k = i ? (void *)&c : (void *)&g;
			socklen_t len = i ? sizeof c : sizeof g;

			memset(&g, 5, sizeof g);
			memset(g.rec_seq, 0, 8);
			memset(&c, 6, sizeof c);
			memset(c.rec_seq, 0, 8);
			g.info.version = c.info.version = v;
			g.info.cipher_type = TLS_CIPHER_AES_GCM_256;
			c.info.cipher_type = TLS_CIPHER_CHACHA20_POLY1305;
			tcp_pair(fd);
			a = unkeyed(fd[0]);
			b = unkeyed(fd[1]);
			EQ(setsockopt(a, SOL_TLS, TLS_TX, k, len), 0);
			EQ(setsockopt(b, SOL_TLS, TLS_RX, k, len), 0);
			EQ(write(a, "secret", 6), 6);
			EQ(read_all(b, got, 6), 6);
			SAME(got, "secret", 6);
			close_pair();
		}
}

static void c_options(void)
{
	int on = 1, two = 2, off = 0;
	socklen_t len = sizeof on;

	open_pair();
	EQ(setsockopt(a, SOL_TLS, TLS_TX_ZEROCOPY_RO, &on, sizeof on), 0);
	ERR(setsockopt(a, SOL_TLS, TLS_TX_ZEROCOPY_RO, &two, sizeof two), EINVAL);
	ERR(setsockopt(a, SOL_TLS, TLS_TX_ZEROCOPY_RO, &on, 1), EINVAL);
	EQ(setsockopt(a, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &on, sizeof on), 0);
	EQ(setsockopt(a, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &off, sizeof off), 0);
	EQ(getsockopt(a, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &on, &len), 0);
	len = 2;
	ERR(getsockopt(a, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &on, &len), EINVAL);
	close_pair();
	version = TLS_1_2_VERSION;
	open_pair();
	ERR(setsockopt(a, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &on, sizeof on), EINVAL);
	close_pair();
	version = TLS_1_3_VERSION;
}

static int set_most(int fd, uint16_t n) { return setsockopt(fd, SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN, &n, sizeof n); }

static int most(int fd)
{
	uint16_t n;
	socklen_t len = sizeof n;

	if (getsockopt(fd, SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN, &n, &len) < 0)
		return -1;
	return len == sizeof n ? n : -2;
}

/* wire reads what n bytes became; no record may have more than full, and those that
 * are cut as the program sent them have just that but the last. */
static void wire(size_t n, int full, int exact)
{
	size_t have = 0;

	while (have < n) {
		int r = wire_record(b);

		TRUE(r > 0 && r <= full);
		if (exact)
			EQ(r, n - have < (size_t)full ? n - have : (size_t)full);
		if (r <= 0)
			return;
		have += r;
	}
	EQ(have, n);
}

static void c_max_payload(void)
{
	static char big[3 * MAX_RECORD];
	uint16_t n = 512;
	uint32_t wide = 512;
	socklen_t len = 1;
	int fd[2];

	open_raw();
	EQ(most(a), MAX_RECORD);
	ERR(set_most(a, 62), EINVAL);
	ERR(set_most(a, MAX_RECORD + 1), EINVAL);
	ERR(setsockopt(a, SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN, &wide, sizeof wide), EINVAL);
	ERR(setsockopt(a, SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN, &n, 1), EINVAL);
	ERR(setsockopt(a, SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN, (void *)8, sizeof n), EFAULT);
	ERR(getsockopt(a, SOL_TLS, TLS_TX_MAX_PAYLOAD_LEN, &n, &len), EINVAL);
	/* It holds for what is written behind it. */
	EQ(write(a, big, 1000), 1000);
	EQ(set_most(a, 63), 0);
	EQ(most(a), 63);
	EQ(write(a, big, 6000), 6000);
	EQ(set_most(a, 1000), 0);
	EQ(write(a, big, sizeof big), sizeof big);
	EQ(set_most(a, MAX_RECORD), 0);
	EQ(write(a, big, sizeof big), sizeof big);
	wire(1000, 1000, strict);
	wire(6000, 63, strict);
	wire(sizeof big, 1000, strict);
	wire(sizeof big, MAX_RECORD, strict);
	/* For records of other types, too. */
	EQ(set_most(a, 100), 0);
	EQ(send_type(a, HANDSHAKE, big, 250, 0), 250);
	EQ(write(a, big, 250), 250);
	wire(250, 100, 1);
	wire(250, 100, strict);
	if (strict) {
		EQ(send(a, big, 10, MSG_MORE), 10);
		ERR(set_most(a, 200), EBUSY);
		EQ(most(a), 100);
		EQ(write(a, big, 10), 10);
		EQ(set_most(a, 200), 0);
		wire(20, 100, 1);
		/* Full ones leave, and what is held open is the rest. */
		EQ(send(a, big, 450, MSG_MORE), 450);
		wire(400, 200, 1);
		EQ(ready(b, POLLIN), 0);
		EQ(send(a, big, 150, MSG_MORE), 150);
		EQ(set_most(a, 300), 0);
		wire(200, 200, 1);
	}
	close_pair();
	if (strict) { /* the numbers are those of the records */
		struct tls12_crypto_info_aes_gcm_128 k;

		open_raw();
		EQ(set_most(a, 100), 0);
		EQ(write(a, big, 1050), 1050);
		len = sizeof k;
		EQ(getsockopt(a, SOL_TLS, TLS_TX, &k, &len), 0);
		EQ(k.rec_seq[7], 11);
		EQ(k.rec_seq[6], 0);
		close_pair();
	}
	version = TLS_1_2_VERSION;
	open_raw();
	ERR(set_most(a, 63), EINVAL);
	EQ(set_most(a, 64), 0);
	close_pair();
	version = TLS_1_3_VERSION;

	/* In front of the keys. */
	tcp_pair(fd);
	a = unkeyed(fd[0]);
	b = fd[1];
	if (ulp)
		ERR(set_most(a, 63), EINVAL); /* as of TLS 1.2 */
	EQ(set_most(a, 500), 0);
	EQ(most(a), 500);
	EQ(set_key(a, TLS_TX, 0), 0);
	EQ(most(a), 500);
	EQ(write(a, big, 5000), 5000);
	wire(5000, 500, strict);
	close_pair();
}

/* Records that came before the keys are opened with them. */
static void c_prequeue(void)
{
	int fd[2];

	tcp_pair(fd);
	b = keyed(fd[1], 1);
	EQ(write(b, "early", 5), 5);
	a = unkeyed(fd[0]);
	if (ulp) /* they are there */
		await(a, POLLIN);
	EQ(set_key(a, TLS_TX, 0), 0);
	EQ(set_key(a, TLS_RX, 1), 0);
	EQ(read_all(a, got, 5), 5);
	SAME(got, "early", 5);
	close_pair();
}

/* A direction without keys is a TCP socket's. */
static void c_half_keyed(void)
{
	int fd[2];

	tcp_pair(fd);
	a = unkeyed(fd[0]);
	b = fd[1];
	EQ(set_key(a, TLS_TX, 0), 0);
	EQ(write(a, "x", 1), 1);
	EQ(wire_record(b), 1);
	EQ(write(b, "plain", 5), 5);
	EQ(read_all(a, got, 5), 5);
	SAME(got, "plain", 5);
	close_pair();
	tcp_pair(fd);
	a = unkeyed(fd[0]);
	b = fd[1];
	EQ(set_key(a, TLS_RX, 1), 0);
	EQ(write(a, "plain", 5), 5);
	EQ(read_all(b, got, 5), 5);
	SAME(got, "plain", 5);
	close_pair();
}

/* Whoever else has the TCP socket would go on with plaintext. */
static void c_shared(void)
{
	int fd[2], d, sync[2];
	pid_t child;

	tcp_pair(fd);
	a = fd[0];
	b = fd[1];
	MUST(ulp_on(a));
	MUST(d = dup(a));
	ERR(set_key(a, TLS_TX, 0), EBUSY);
	EQ(write(d, "raw", 3), 3); /* nothing was keyed */
	EQ(read_all(b, got, 3), 3);
	close(d);
	MUST(pipe(sync));
	MUST(child = fork());
	if (child == 0) {
		close(sync[1]);
		_exit(read(sync[0], got, 1) == 0 ? 0 : 1);
	}
	ERR(set_key(a, TLS_RX, 1), EBUSY);
	close(sync[1]);
	MUST(waitpid(child, NULL, 0));
	EQ(set_key(a, TLS_TX, 0), 0);
	EQ(write(a, "x", 1), 1);
	EQ(wire_record(b), 1);
	close(sync[0]);
	close_pair();
}

/* Another thread closes the socket while it gets its keys: the call gives 0, or EBADF
 * and its kin, and nothing is ever sent as it is. */
static volatile int racing;

static void *closer(void *p)
{
	while (!racing)
		;
	close(*(int *)p);
	return NULL;
}

static void c_close_during_keys(void)
{
	for (int i = 0; i < 50; i++) {
		int fd[2], r;
		pthread_t t;

		tcp_pair(fd);
		a = unkeyed(fd[0]);
		b = fd[1];
		racing = 0;
		MUST(-pthread_create(&t, NULL, closer, &a));
		racing = 1;
		r = set_key(a, TLS_TX, 0);
		TRUE(r == 0 || errno == EBADF || errno == ENOPROTOOPT || errno == EBUSY || errno == ENOTCONN || errno == EPIPE || errno == EINVAL || errno == ENOTSOCK);
		if (r == 0 && write(a, "secret", 6) == 6) {
			ssize_t n = read(b, got, sizeof got);

			TRUE(n <= 0 || n > 6 && memcmp(got, "secret", 6));
		}
		pthread_join(t, NULL);
		close(b);
	}
}

/* Another thread duplicates it meanwhile. What is written to the duplicate is either
 * sent before there are keys, or sealed, or the keys are refused. */
static void *duplicator(void *p)
{
	int *fd = p;

	while (!racing)
		;
	fd[1] = dup(fd[0]);
	return NULL;
}

static void c_dup_during_keys(void)
{
	for (int i = 0; i < 50; i++) {
		int fd[2], d[2], r, errno_was;
		pthread_t t;

		tcp_pair(fd);
		MUST(ulp_on(fd[0]));
		b = fd[1];
		d[0] = fd[0];
		d[1] = -1;
		racing = 0;
		MUST(-pthread_create(&t, NULL, duplicator, d));
		racing = 1;
		r = set_key(fd[0], TLS_TX, 0);
		errno_was = errno;
		pthread_join(t, NULL);
		if (r == 0) {
			signal(SIGPIPE, SIG_IGN);
			if (write(d[1], "secret", 6) == 6) {
				ssize_t n = read(b, got, sizeof got);

				TRUE(n <= 0 || n > 6 && memcmp(got, "secret", 6));
			}
		} else {
			TRUE(r == -1 && errno_was == EBUSY);
		}
		close(d[1]);
		close(fd[0]);
		close(b);
	}
}

/* ---- AF_TLS ---- */

static int bind_tls(int fd, int carrier)
{
	struct sockaddr_tls s = {AF_TLS, 0, carrier};

	return bind(fd, (struct sockaddr *)&s, sizeof s);
}

static void c_socket(void)
{
	int fd;

	ERR(socket(AF_TLS, SOCK_RAW, 0), ESOCKTNOSUPPORT);
	ERR(socket(AF_TLS, SOCK_STREAM, 1), EPROTONOSUPPORT);
	MUST(fd = socket(AF_TLS, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	ERR(set_key(fd, TLS_TX, 0), ENOTCONN);
	struct sockaddr_storage s;
	socklen_t len = sizeof s;
	ERR(getpeername(fd, (struct sockaddr *)&s, &len), ENOTCONN);
	close(fd);
}

static void c_bind(void)
{
	int fd, other, tcp[2], u[2], ln = listener(), un = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_tls s = {AF_TLS, 0, 0};
	struct linger l = {1, 0};

	MUST(fd = socket(AF_TLS, SOCK_STREAM, 0));
	MUST(other = socket(AF_TLS, SOCK_STREAM, 0));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
	ERR(bind_tls(fd, -1), EBADF);
	ERR(bind_tls(fd, 1000), EBADF);
	ERR(bind_tls(fd, 0), ENOTSOCK);
	ERR(bind_tls(fd, un), ENOTCONN);
	ERR(bind_tls(fd, ln), ENOTCONN);
	ERR(bind_tls(fd, udp), EOPNOTSUPP);
	ERR(bind_tls(fd, u[0]), EOPNOTSUPP);
	ERR(bind_tls(fd, other), EOPNOTSUPP);
	ERR(bind_tls(fd, fd), EOPNOTSUPP);
	tcp_pair(tcp);
	s.fd = tcp[0];
	ERR(bind(fd, (struct sockaddr *)&s, sizeof s - 1), EINVAL);
	ERR(bind(fd, (struct sockaddr *)&s, 128), EINVAL);
	ERR(bind(fd, (void *)8, sizeof s), EFAULT);
	s.reserved = 1;
	ERR(bind(fd, (struct sockaddr *)&s, sizeof s), EINVAL);
	s.reserved = 0;
	s.family = AF_INET;
	ERR(bind(fd, (struct sockaddr *)&s, sizeof s), EINVAL);
	EQ(bind_tls(fd, tcp[0]), 0);
	ERR(bind_tls(fd, tcp[0]), EINVAL);
	ERR(bind_tls(other, tcp[0]), EADDRINUSE);
	int one = 1, bad = 7;
	ERR(setsockopt(fd, SOL_TLS, AFTLS_POLICY, &one, sizeof one), EISCONN);
	ERR(setsockopt(other, SOL_TLS, AFTLS_POLICY, &bad, sizeof bad), EINVAL);
	close(tcp[0]);
	close(tcp[1]);
	close(fd);
	/* A dead carrier. */
	tcp_pair(tcp);
	MUST(setsockopt(tcp[1], SOL_SOCKET, SO_LINGER, &l, sizeof l));
	close(tcp[1]);
	await(tcp[0], POLLIN);
	ERR(bind_tls(other, tcp[0]), ENOTCONN);
	close(tcp[0]);
	close(other);
	close(u[0]);
	close(u[1]);
	close(ln);
	close(un);
	close(udp);
}

/* A socket without a carrier, or without keys. */
static void c_unkeyed(void)
{
	int fd, tcp[2], type;

	MUST(fd = socket(AF_TLS, SOCK_STREAM | SOCK_NONBLOCK, 0));
	ERR(recv(fd, got, 1, MSG_DONTWAIT), EAGAIN);
	close(fd);
	tcp_pair(tcp);
	a = unkeyed(tcp[0]);
	b = tcp[1];
	EQ(write(a, "waits for keys", 14), 14);
	ERR(recv_type(a, got, 4, MSG_DONTWAIT, &type, NULL), EAGAIN);
	nonblock(b, 1);
	ERR(read(b, got, 4), EAGAIN); /* not as it is */
	nonblock(b, 0);
	EQ(set_key(a, TLS_TX, 0), 0);
	EQ(wire_record(b), 14);
	close_pair();
}

static void c_control_fd(void)
{
	int tcp[2], ctl = -1, again;
	socklen_t len = sizeof ctl;

	MUST(a = socket(AF_TLS, SOCK_STREAM, 0));
	ERR(getsockopt(a, SOL_TLS, AFTLS_CONTROL_FD, &ctl, &len), ENOTCONN);
	close(a);
	tcp_pair(tcp);
	a = unkeyed(tcp[0]);
	b = tcp[1];
	len = 3;
	ERR(getsockopt(a, SOL_TLS, AFTLS_CONTROL_FD, &ctl, &len), EINVAL);
	len = sizeof ctl;
	ERR(getsockopt(a, SOL_TLS, AFTLS_CONTROL_FD, (void *)8, &len), EFAULT);
	EQ(getsockopt(a, SOL_TLS, AFTLS_CONTROL_FD, &ctl, &len), 0);
	EQ(fcntl(ctl, F_GETFD), FD_CLOEXEC);
	ERR(getsockopt(a, SOL_TLS, AFTLS_CONTROL_FD, &again, &len), EISCONN);
	close(ctl);
	close_pair();
	open_pair(); /* too late */
	ERR(getsockopt(a, SOL_TLS, AFTLS_CONTROL_FD, &again, &len), EISCONN);
	close_pair();
}

static void c_descriptors(void)
{
	struct rlimit old, few;
	int fd, spare;

	MUST(getrlimit(RLIMIT_NOFILE, &old));
	few = old;
	MUST(spare = dup(0));
	few.rlim_cur = spare;
	MUST(setrlimit(RLIMIT_NOFILE, &few));
	fd = socket(AF_TLS, SOCK_STREAM, 0);
	EQ(fd, -1);
	EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
	MUST(fd = socket(AF_TLS, SOCK_STREAM, 0));
	close(fd);
	close(spare);
}

/* Calls that go around the supervisor are not there. */
static void c_denied(void)
{
	ERR(syscall(SYS_io_uring_setup, 8, NULL), ENOSYS);
	ERR(syscall(0x40000000 | SYS_write, 1, "", 0), ENOSYS);
}

static const struct cell cells[] = {
	{"ulp", c_ulp, K_ULP},
	{"bad_keys", c_bad_keys, K_TLS},
	{"ciphers", c_ciphers, K_TLS},
	{"tls_options", c_options, K_TLS},
	{"max_payload", c_max_payload, K_TLS},
	{"prequeue", c_prequeue, K_TLS},
	{"half_keyed", c_half_keyed, K_ULP},
	{"shared", c_shared, K_ULP},
	{"close_during_keys", c_close_during_keys, K_TLS},
	{"dup_during_keys", c_dup_during_keys, K_ULP},
	{"socket", c_socket, K_AFTLS},
	{"bind", c_bind, K_AFTLS},
	{"unkeyed", c_unkeyed, K_AFTLS},
	{"control_fd", c_control_fd, K_AFTLS},
	{"descriptors", c_descriptors, K_AFTLS},
	{"denied", c_denied, K_TLS},
};
MAIN(cells)
