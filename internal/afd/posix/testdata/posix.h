/*
 * What the programs of the conformance suite share: cells, each a few calls with
 * what they must give, and pairs of sockets of four worlds.
 *
 *	PROGRAM WORLD KIND
 *
 * WORLD is where the program runs: "native", "end" (aftls run) or "strict" (aftls run
 * --strict). KIND is what its sockets are: "unix" and "tcp", which need no
 * supervisor; "ulp", a TCP socket with TCP_ULP "tls"; "aftls", a socket of AF_TLS
 * whose control records are the program's; "udp" and "dtls" are those of datagrams.
 *
 * Each cell ends with a line "ok NAME" or "not ok NAME: FILE:LINE: WHY".
 */
#ifndef POSIX_H
#define POSIX_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/sockios.h>
#include <linux/tls.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef TCP_ULP
#define TCP_ULP 31
#endif

/* Of clients/c/aftls.h, which is for programs that link aftls.c. */
#define AF_TLS 0x544c
struct sockaddr_tls {
	sa_family_t family;
	uint16_t reserved;
	int32_t fd;
};
#define AFTLS_POLICY 0x4003
#define AFTLS_NEXT_RECORD 0x4004
#define AFTLS_CONTROL_FD 0x4005
#define AFTLS_ERROR 0x4006
#define AFTLS_THEIRS 1
struct aftls_next_record {
	uint8_t type;
	uint8_t reserved;
	uint16_t length;
};

#define ALERT 21
#define HANDSHAKE 22
#define DATA 23
#define MAX_RECORD 16384

static int tls;		/* the sockets are TLS sockets */
static int strict;	/* and answer as those of Linux */
static int ulp, aftls, is_unix, is_tcp, is_udp, dtls;

static const char *cell_name;
static int cell_failed, failures;

#define FAIL(...)                                                              \
	do {                                                                   \
		if (!cell_failed) {                                            \
			printf("not ok %s: %s:%d: ", cell_name,                \
			       strrchr("/" __FILE__, '/') + 1, __LINE__);      \
			printf(__VA_ARGS__);                                   \
			printf("\n");                                          \
			fflush(stdout);                                        \
		}                                                              \
		cell_failed = 1;                                               \
	} while (0)

#define TRUE(x)                                                                \
	do {                                                                   \
		if (!(x))                                                      \
			FAIL("%s is false, errno %d", #x, errno);              \
	} while (0)

#define EQ(x, want)                                                            \
	do {                                                                   \
		errno = 0;                                                     \
		long got_ = (long)(x), want_ = (long)(want);                   \
		if (got_ != want_)                                             \
			FAIL("%s is %ld, errno %d (%s), want %ld", #x, got_,   \
			     errno, strerror(errno), want_);                   \
	} while (0)

#define ERR(x, want)                                                           \
	do {                                                                   \
		errno = 0;                                                     \
		long got_ = (long)(x);                                         \
		int e_ = errno;                                                \
		if (got_ != -1 || e_ != (want))                                \
			FAIL("%s is %ld, errno %d (%s), want errno %d (%s)",   \
			     #x, got_, e_, strerror(e_), (want),               \
			     strerror(want));                                  \
	} while (0)

#define SAME(a, b, n) TRUE(memcmp(a, b, n) == 0)

#define MUST(x)                                                                \
	do {                                                                   \
		if ((long)(x) < 0) {                                           \
			printf("not ok %s: %s:%d: %s: %s\n",                   \
			       cell_name ? cell_name : "setup",                \
			       strrchr("/" __FILE__, '/') + 1, __LINE__, #x,   \
			       strerror(errno));                               \
			exit(1);                                               \
		}                                                              \
	} while (0)

struct cell {
	const char *name;
	void (*run)(void);
	int kinds; /* in which it means something */
};

#define K_UNIX 1
#define K_TCP 2
#define K_ULP 4
#define K_AFTLS 8
#define K_UDP 16
#define K_DTLS 32
#define K_DATAGRAMS (K_UDP | K_DTLS)
#define K_PLAIN (K_UNIX | K_TCP)
#define K_TLS (K_ULP | K_AFTLS)
#define K_ALL (K_PLAIN | K_TLS)

/* ---- Keys ---- */

static uint16_t version = TLS_1_3_VERSION;

static struct tls12_crypto_info_aes_gcm_128 key(int direction)
{
	struct tls12_crypto_info_aes_gcm_128 k;

	memset(&k, 0, sizeof k);
	k.info.version = version;
	k.info.cipher_type = TLS_CIPHER_AES_GCM_128;
	memset(k.key, 0x40 + direction, sizeof k.key);
	memset(k.iv, 0x50 + direction, sizeof k.iv);
	memset(k.salt, 0x60 + direction, sizeof k.salt);
	return k;
}

/* A socket that sends in direction d. */
__attribute__((unused)) static int set_key(int fd, int option, int d)
{
	struct tls12_crypto_info_aes_gcm_128 k = key(d);

	return setsockopt(fd, SOL_TLS, option, &k, sizeof k);
}

/* ---- Sockets ---- */

static void tcp_pair(int fd[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t len = sizeof a;
	int ln = socket(AF_INET, SOCK_STREAM, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	MUST(ln);
	MUST(bind(ln, (struct sockaddr *)&a, sizeof a));
	MUST(listen(ln, 1));
	MUST(getsockname(ln, (struct sockaddr *)&a, &len));
	MUST(fd[0] = socket(AF_INET, SOCK_STREAM, 0));
	MUST(connect(fd[0], (struct sockaddr *)&a, sizeof a));
	MUST(fd[1] = accept(ln, NULL, NULL));
	close(ln);
}

/* unkeyed makes a TLS socket of a TCP socket. */
__attribute__((unused)) static int unkeyed(int tcp)
{
	struct sockaddr_tls a = {AF_TLS, 0, tcp};
	int fd, one = AFTLS_THEIRS;

	if (!aftls) {
		MUST(setsockopt(tcp, IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls"));
		return tcp;
	}
	MUST(fd = socket(AF_TLS, SOCK_STREAM, 0));
	MUST(setsockopt(fd, SOL_TLS, AFTLS_POLICY, &one, sizeof one));
	MUST(bind(fd, (struct sockaddr *)&a, sizeof a));
	close(tcp);
	return fd;
}

/* keyed makes a TLS socket that sends in direction d. */
__attribute__((unused)) static int keyed(int tcp, int d)
{
	int fd = unkeyed(tcp);

	MUST(set_key(fd, TLS_TX, d));
	MUST(set_key(fd, TLS_RX, 1 - d));
	return fd;
}

/* What a cell works on: a is what it looks at, b the other end. */
static int a, b;

__attribute__((unused)) static void open_pair(void)
{
	int fd[2];

	if (is_unix) {
		MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
		a = fd[0];
		b = fd[1];
		return;
	}
	tcp_pair(fd);
	a = tls ? keyed(fd[0], 0) : fd[0];
	b = tls ? keyed(fd[1], 1) : fd[1];
}

/* With open_raw b is the TCP socket at the other end, which sees records. */
__attribute__((unused)) static void open_raw(void)
{
	int fd[2];

	tcp_pair(fd);
	a = keyed(fd[0], 0);
	b = fd[1];
}

__attribute__((unused)) static void close_pair(void)
{
	close(a);
	close(b);
	a = b = -1;
}

__attribute__((unused)) static void nonblock(int fd, int on)
{
	int flags = fcntl(fd, F_GETFL);

	MUST(flags);
	MUST(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}

/* ---- Waiting. The program has an alarm: none of these has a limit. ---- */

__attribute__((unused)) static short await(int fd, short events)
{
	struct pollfd p = {fd, events, 0};

	MUST(poll(&p, 1, -1));
	return p.revents;
}

/* await_bytes waits until so many bytes are there to be read. */
__attribute__((unused)) static void await_bytes(int fd, int n)
{
	int have = 0;

	for (;;) {
		MUST(ioctl(fd, FIONREAD, &have));
		if (have >= n)
			return;
		sched_yield();
	}
}

__attribute__((unused)) static int ready(int fd, short events)
{
	struct pollfd p = {fd, events, 0};

	MUST(poll(&p, 1, 0));
	return p.revents;
}

/* ---- Bytes ---- */

__attribute__((unused)) static void fill(char *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++) {
		seed = seed * 1103515245 + 12345;
		p[i] = (char)(seed >> 16);
	}
}

/* read_all reads n bytes, in as many calls as it takes. */
__attribute__((unused)) static ssize_t read_all(int fd, void *p, size_t n)
{
	size_t have = 0;

	while (have < n) {
		ssize_t m = read(fd, (char *)p + have, n - have);

		if (m < 0 && errno == EAGAIN) {
			await(fd, POLLIN);
			continue;
		}
		if (m < 0)
			return -1;
		if (m == 0)
			break;
		have += m;
	}
	return have;
}

__attribute__((unused)) static ssize_t write_all(int fd, const void *p, size_t n)
{
	size_t have = 0;

	while (have < n) {
		ssize_t m = write(fd, (const char *)p + have, n - have);

		if (m < 0 && errno == EAGAIN) {
			await(fd, POLLOUT);
			continue;
		}
		if (m < 0)
			return -1;
		have += m;
	}
	return have;
}

/* wire_record reads one record of a TCP socket and returns how long its payload is,
 * in TLS 1.3; -1 at the end. */
__attribute__((unused)) static int wire_record(int tcp)
{
	static unsigned char r[5 + MAX_RECORD + 256];
	int n;

	if (read_all(tcp, r, 5) != 5)
		return -1;
	n = r[3] << 8 | r[4];
	if (r[1] != 3 || r[2] != 3 || n > MAX_RECORD + 256 || read_all(tcp, r + 5, n) != n)
		return -1;
	return n - 17;
}

/* ---- Records of other types ---- */

__attribute__((unused)) static ssize_t send_type(int fd, int type, const void *p, size_t n, int flags)
{
	char c[CMSG_SPACE(1)] __attribute__((aligned(8)));
	struct iovec v = {(void *)p, n};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
	struct cmsghdr *m = CMSG_FIRSTHDR(&h);

	memset(c, 0, sizeof c);
	m->cmsg_level = SOL_TLS;
	m->cmsg_type = TLS_SET_RECORD_TYPE;
	m->cmsg_len = CMSG_LEN(1);
	*CMSG_DATA(m) = type;
	return sendmsg(fd, &h, flags);
}

/* recv_type receives with room for a type; *type is -1 where there was none. */
__attribute__((unused)) static ssize_t recv_type(int fd, void *p, size_t n, int flags, int *type, int *out)
{
	char c[CMSG_SPACE(1)] __attribute__((aligned(8)));
	struct iovec v = {p, n};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
	struct cmsghdr *m;
	ssize_t r = recvmsg(fd, &h, flags);

	*type = -1;
	if (out)
		*out = h.msg_flags;
	if (r >= 0 && (m = CMSG_FIRSTHDR(&h)) != NULL && m->cmsg_level == SOL_TLS && m->cmsg_type == TLS_GET_RECORD_TYPE)
		*type = *CMSG_DATA(m);
	return r;
}

/* ---- The program ---- */

__attribute__((unused)) static int run_cells(const struct cell *cells, int n, int argc, char **argv)
{
	int kind;

	if (argc < 3)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	is_unix = !strcmp(argv[2], "unix");
	is_tcp = !strcmp(argv[2], "tcp");
	ulp = !strcmp(argv[2], "ulp");
	aftls = !strcmp(argv[2], "aftls");
	tls = ulp || aftls;
	is_udp = !strcmp(argv[2], "udp");
	dtls = !strcmp(argv[2], "dtls");
	strict = (ulp || dtls) && !strcmp(argv[1], "strict");
	kind = is_udp ? K_UDP : dtls ? K_DTLS : is_unix ? K_UNIX : is_tcp ? K_TCP : ulp ? K_ULP : K_AFTLS;
	for (int i = 0; i < n; i++) {
		if (!(cells[i].kinds & kind) || argc > 3 && strcmp(argv[3], cells[i].name))
			continue;
		cell_name = cells[i].name;
		cell_failed = 0;
		alarm(120); /* of a cell that hangs the rest is not told */
		cells[i].run();
		if (!cell_failed)
			printf("ok %s\n", cell_name);
		failures += cell_failed;
	}
	printf("done\n");
	return failures != 0;
}

#define MAIN(cells)                                                            \
	int main(int argc, char **argv)                                        \
	{                                                                      \
		return run_cells(cells, sizeof cells / sizeof *cells, argc,    \
				 argv);                                        \
	}

#endif
