/* Datagrams: AF_TLS with SOCK_DGRAM, and what UDP does natively. */
#include "posix.h"
#include <linux/filter.h>

#define DTLS_1_2 0xfefd
#define AFTLS_MAX_MESSAGE 0x4008
#define OVERHEAD (13 + 8 + 16)

static char got[20000];

static struct tls12_crypto_info_aes_gcm_128 dkey(int direction, int number)
{
	struct tls12_crypto_info_aes_gcm_128 k = key(direction);

	k.info.version = DTLS_1_2;
	memset(k.rec_seq, 0, sizeof k.rec_seq);
	k.rec_seq[1] = 1; /* the epoch */
	k.rec_seq[7] = number;
	return k;
}

static int set_dkey(int fd, int option, int d)
{
	struct tls12_crypto_info_aes_gcm_128 k = dkey(d, 1);

	return setsockopt(fd, SOL_TLS, option, &k, sizeof k);
}

/* udp_pair makes two UDP sockets that are each other's peers. */
static void udp_pair(int fd[2])
{
	struct sockaddr_in at[2];
	socklen_t len;

	for (int i = 0; i < 2; i++) {
		memset(&at[i], 0, sizeof at[i]);
		at[i].sin_family = AF_INET;
		at[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		MUST(fd[i] = socket(AF_INET, SOCK_DGRAM, 0));
		MUST(bind(fd[i], (struct sockaddr *)&at[i], sizeof at[i]));
		len = sizeof at[i];
		MUST(getsockname(fd[i], (struct sockaddr *)&at[i], &len));
	}
	for (int i = 0; i < 2; i++)
		MUST(connect(fd[i], (struct sockaddr *)&at[1 - i], sizeof at[0]));
}

static int bind_to(int fd, int carrier)
{
	struct sockaddr_tls at = {AF_TLS, 0, carrier};

	return bind(fd, (struct sockaddr *)&at, sizeof at);
}

static int bound(int udp, int policy)
{
	int fd;

	MUST(fd = socket(AF_TLS, SOCK_DGRAM, 0));
	MUST(setsockopt(fd, SOL_TLS, AFTLS_POLICY, &policy, sizeof policy));
	MUST(bind_to(fd, udp));
	close(udp);
	return fd;
}

static int dkeyed(int udp, int d)
{
	int fd = bound(udp, AFTLS_THEIRS);

	MUST(set_dkey(fd, TLS_TX, d));
	MUST(set_dkey(fd, TLS_RX, 1 - d));
	return fd;
}

static void open_datagrams(void)
{
	int fd[2];

	udp_pair(fd);
	a = dtls ? dkeyed(fd[0], 0) : fd[0];
	b = dtls ? dkeyed(fd[1], 1) : fd[1];
}

/* With open_wire b is the UDP socket at the other end. */
static void open_wire(void)
{
	int fd[2];

	udp_pair(fd);
	a = dtls ? dkeyed(fd[0], 0) : fd[0];
	b = fd[1];
}

static void c_dgram_read_write(void)
{
	struct iovec v[2] = {{"ga", 2}, {"thered", 6}};
	char one[3], two[10];
	struct iovec w[2] = {{one, 3}, {two, 10}};

	open_datagrams();
	for (int n = 1; n <= MAX_RECORD; n *= 3) {
		fill(got, n, n);
		char *want = malloc(n);
		memcpy(want, got, n);
		EQ(write(a, got, n), n);
		EQ(read(b, got, sizeof got), n);
		SAME(got, want, n);
		free(want);
	}
	EQ(writev(b, v, 2), 8);
	EQ(readv(a, w, 2), 8);
	SAME(one, "gat", 3);
	SAME(two, "hered", 5);
	/* What does not fit is lost, and the next one is whole. */
	EQ(send(a, "abcdef", 6, 0), 6);
	EQ(send(a, "next", 4, 0), 4);
	EQ(recv(b, got, 3, 0), 3);
	EQ(recv(b, got, sizeof got, 0), 4);
	close_pair();
}

static void c_dgram_flags(void)
{
	open_datagrams();
	ERR(recv(a, got, sizeof got, MSG_DONTWAIT), EAGAIN);
	nonblock(a, 1);
	ERR(read(a, got, sizeof got), EAGAIN);
	nonblock(a, 0);
	EQ(send(b, "abcdef", 6, 0), 6);
	EQ(recv(a, got, sizeof got, MSG_PEEK), 6);
	EQ(recv(a, got, 2, MSG_PEEK | MSG_TRUNC), 6);
	EQ(recv(a, got, 2, MSG_TRUNC), 6);
	ERR(recv(a, got, sizeof got, MSG_DONTWAIT), EAGAIN);
	struct timeval tv = {0, 10000};
	EQ(setsockopt(a, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv), 0);
	ERR(read(a, got, sizeof got), EAGAIN);
	close_pair();
}

static void c_dgram_msg(void)
{
	struct iovec v[2] = {{"ab", 2}, {"cd", 2}}, w = {got, sizeof got};
	struct msghdr h = {.msg_iov = v, .msg_iovlen = 2};
	struct mmsghdr m[3];

	open_datagrams();
	EQ(sendmsg(a, &h, 0), 4);
	struct msghdr r = {.msg_iov = &w, .msg_iovlen = 1};
	EQ(recvmsg(b, &r, 0), 4);
	SAME(got, "abcd", 4);
	memset(m, 0, sizeof m);
	for (int i = 0; i < 3; i++) {
		m[i].msg_hdr.msg_iov = v;
		m[i].msg_hdr.msg_iovlen = 1 + i % 2;
	}
	EQ(sendmmsg(a, m, 3, 0), 3);
	for (int i = 0; i < 3; i++) {
		await(b, POLLIN);
		EQ(recvmsg(b, &r, 0), 2 + 2 * (i % 2));
	}
	EQ(sendmmsg(a, m, 3, 0), 3);
	memset(m, 0, sizeof m);
	for (int i = 0; i < 3; i++) {
		m[i].msg_hdr.msg_iov = &w;
		m[i].msg_hdr.msg_iovlen = 1;
	}
	int n = 0;
	while (n < 3) {
		int k = recvmmsg(b, m, 3 - n, MSG_WAITFORONE, NULL);

		MUST(k);
		EQ(m[0].msg_len, 2 + 2 * (n % 2));
		n += k;
	}
	close_pair();
}

static void c_dgram_poll(void)
{
	struct epoll_event e = {EPOLLIN | EPOLLET, {.fd = 7}}, out;
	int ep = epoll_create1(0);
	fd_set set;

	open_datagrams();
	EQ(ready(a, POLLIN | POLLOUT), POLLOUT);
	MUST(ep);
	EQ(epoll_ctl(ep, EPOLL_CTL_ADD, a, &e), 0);
	EQ(epoll_wait(ep, &out, 1, 0), 0);
	EQ(write(b, "x", 1), 1);
	EQ(epoll_wait(ep, &out, 1, -1), 1);
	EQ(epoll_wait(ep, &out, 1, 0), 0);
	EQ(await(a, POLLIN), POLLIN);
	FD_ZERO(&set);
	FD_SET(a, &set);
	EQ(select(a + 1, &set, NULL, NULL, NULL), 1);
	int have = 0;
	EQ(ioctl(a, FIONREAD, &have), 0);
	EQ(have, 1);
	EQ(read(a, got, sizeof got), 1);
	EQ(write(b, "yy", 2), 2);
	EQ(epoll_wait(ep, &out, 1, -1), 1);
	EQ(read(a, got, sizeof got), 2);
	close(ep);
	close_pair();
}

/* Two calls cannot say it without --strict: the message is lost, or ends it all. */
static void c_dgram_too_long(void)
{
	int max = 0;
	socklen_t len = sizeof max;
	struct iovec v = {got, 0};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1};
	struct mmsghdr m = {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}};

	open_datagrams();
	if (dtls) {
		EQ(getsockopt(a, SOL_TLS, AFTLS_MAX_MESSAGE, &max, &len), 0);
		EQ(max, MAX_RECORD);
	}
	v.iov_len = dtls ? max + 1 : 65508;
	char *big = calloc(1, v.iov_len);
	v.iov_base = big;
	ERR(sendmsg(a, &h, 0), EMSGSIZE);
	ERR(sendmmsg(a, &m, 1, 0), EMSGSIZE);
	if (strict || !dtls) {
		ERR(write(a, big, v.iov_len), EMSGSIZE);
		ERR(writev(a, &v, 1), EMSGSIZE);
		ERR(send(a, big, v.iov_len, 0), EMSGSIZE);
	}
	EQ(write(a, "fits", 4), 4);
	EQ(read(b, got, sizeof got), 4);
	if (dtls && !strict) {
		EQ(write(a, big, v.iov_len), v.iov_len);
		ERR(read(a, got, sizeof got), ECONNRESET);
		struct { uint32_t error; char text[252]; } why;
		len = sizeof why;
		EQ(getsockopt(a, SOL_TLS, AFTLS_ERROR, &why, &len), 0);
		EQ(why.error, EMSGSIZE);
	}
	free(big);
	close_pair();
}

/* Nobody listens at the peer's address: one call says so, and the socket lives. */
static void c_dgram_refused(void)
{
	struct iovec v = {"x", 1};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1};
	int err = 0, e;
	socklen_t len = sizeof err;

	open_wire();
	close(b);
	EQ(write(a, "to nobody", 9), 9);
	/* The answer comes in its own time. */
	while (sendmsg(a, &h, 0) == 1)
		sched_yield();
	e = errno;
	EQ(e, ECONNREFUSED);
	if (strict || !dtls) {
		while (write(a, "again", 5) == 5)
			sched_yield();
		e = errno;
		EQ(e, ECONNREFUSED);
		do {
			TRUE(write(a, "again", 5) == 5 || errno == ECONNREFUSED);
			EQ(getsockopt(a, SOL_SOCKET, SO_ERROR, &err, &len), 0);
		} while (err == 0);
		EQ(err, ECONNREFUSED);
	}
	close(a);
	a = b = -1;
}

/* There is one peer: an address of another is not looked at, and none is given. */
static void c_dgram_addresses(void)
{
	struct sockaddr_in other = {.sin_family = AF_INET, .sin_port = htons(9)};
	socklen_t len = sizeof other;

	other.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	open_datagrams();
	EQ(sendto(a, "x", 1, 0, (struct sockaddr *)&other, sizeof other), 1);
	EQ(recvfrom(b, got, sizeof got, 0, (struct sockaddr *)&other, &len), 1);
	EQ(len, 0);
	close_pair();
}

/* The kernel runs a filter on the plaintext of every message. */
static void c_dgram_filter(void)
{
	struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, 3)};
	struct sock_fprog prog = {1, code};

	open_datagrams();
	EQ(setsockopt(a, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog), 0);
	EQ(write(b, "abcdef", 6), 6);
	EQ(read(a, got, sizeof got), 3);
	SAME(got, "abc", 3);
	EQ(setsockopt(a, SOL_SOCKET, SO_DETACH_FILTER, &prog, sizeof prog), 0);
	EQ(write(b, "abcdef", 6), 6);
	EQ(read(a, got, sizeof got), 6);
	close_pair();
}

static void c_dgram_names(void)
{
	struct sockaddr_in at, peer;
	socklen_t len = sizeof at;
	int v = 0;

	open_datagrams();
	EQ(getsockname(a, (struct sockaddr *)&at, &len), 0);
	EQ(len, sizeof at);
	len = sizeof peer;
	EQ(getpeername(b, (struct sockaddr *)&peer, &len), 0);
	EQ(at.sin_family, AF_INET);
	EQ(at.sin_port, peer.sin_port);
	len = sizeof v;
	EQ(getsockopt(a, SOL_SOCKET, SO_TYPE, &v, &len), 0);
	EQ(v, dtls ? SOCK_SEQPACKET : SOCK_DGRAM);
	EQ(getsockopt(a, SOL_SOCKET, SO_DOMAIN, &v, &len), 0);
	EQ(v, dtls && !strict ? AF_UNIX : AF_INET);
	EQ(getsockopt(a, SOL_SOCKET, SO_PROTOCOL, &v, &len), 0);
	EQ(v, dtls && !strict ? 0 : IPPROTO_UDP);
	EQ(getsockopt(a, IPPROTO_IP, IP_MTU, &v, &len), 0);
	TRUE(v >= 1280);
	v = 0x10;
	EQ(setsockopt(a, IPPROTO_IP, IP_TOS, &v, sizeof v), 0);
	v = 0;
	EQ(getsockopt(a, IPPROTO_IP, IP_TOS, &v, &len), 0);
	EQ(v, 0x10);
	close_pair();
}

static void c_dgram_end(void)
{
	int fd;

	open_datagrams();
	EQ(write(a, "last", 4), 4);
	MUST(fd = dup(a));
	close(a);
	EQ(write(fd, "more", 4), 4);
	close(fd);
	EQ(read(b, got, sizeof got), 4);
	EQ(read(b, got, sizeof got), 4);
	EQ(read(b, got, sizeof got), 0); /* close_notify */
	EQ(read(b, got, sizeof got), 0);
	close(b);

	open_datagrams();
	EQ(shutdown(a, SHUT_WR), 0);
	ERR(send(a, "x", 1, MSG_NOSIGNAL), EPIPE);
	EQ(read(b, got, sizeof got), 0);
	EQ(write(b, "late", 4), 4);
	EQ(read(a, got, sizeof got), 4);
	close_pair();
}

/* What is forged, cut or comes again is as if it had not come. */
static void c_dgram_hostile(void)
{
	unsigned char w[200];
	int fd[2], relay[2], n;

	udp_pair(fd);
	udp_pair(relay);
	a = dkeyed(fd[0], 0);
	b = dkeyed(relay[0], 1);
	/* a <-> fd[1], this program, relay[1] <-> b */
	for (int i = 0; i < 20; i++) {
		EQ(write(a, "hello", 5), 5);
		n = recv(fd[1], w, sizeof w, 0);
		EQ(n, 5 + OVERHEAD);
		EQ(memmem(w, n, "hello", 5) == NULL, 1);
		w[n - 1] ^= 1;
		EQ(send(relay[1], w, n, 0), n);
		w[n - 1] ^= 1;
		EQ(send(relay[1], w, n / 2, 0), n / 2);
		EQ(send(relay[1], "", 0, 0), 0);
		EQ(send(relay[1], w, sizeof w, 0), sizeof w); /* with more behind it */
		EQ(send(relay[1], w, n, 0), n);
		EQ(read(b, got, sizeof got), 5);
		SAME(got, "hello", 5);
	}
	ERR(recv(b, got, sizeof got, MSG_DONTWAIT), EAGAIN);
	EQ(write(b, "back", 4), 4);
	n = recv(relay[1], w, sizeof w, 0);
	EQ(send(fd[1], w, n, 0), n);
	EQ(read(a, got, sizeof got), 4);
	close_pair();
	close(fd[1]);
	close(relay[1]);
}

static void c_dgram_control(void)
{
	int type, flags;
	struct aftls_next_record next = {0};
	socklen_t len = sizeof next;

	open_datagrams();
	ERR(recv_type(a, got, sizeof got, MSG_ERRQUEUE, &type, NULL), EAGAIN);
	EQ(send_type(b, ALERT, "\1\144", 2, 0), 2);
	EQ(write(b, "data", 4), 4);
	await(a, POLLIN);
	EQ(recv_type(a, got, sizeof got, MSG_ERRQUEUE | MSG_PEEK, &type, &flags), 2);
	EQ(type, ALERT);
	EQ(recv_type(a, got, 1, MSG_ERRQUEUE, &type, &flags), 1);
	EQ(flags & (MSG_TRUNC | MSG_ERRQUEUE | MSG_EOR), MSG_TRUNC | MSG_ERRQUEUE | MSG_EOR);
	EQ(recv_type(a, got, sizeof got, 0, &type, NULL), 4);
	EQ(type, -1); /* data */
	EQ(send_type(b, ALERT, "\1\144", 2, 0), 2);
	EQ(write(b, "data", 4), 4);
	await(a, POLLIN);
	EQ(recv_type(a, got, sizeof got, 0, &type, NULL), 2);
	EQ(type, ALERT);
	EQ(read(a, got, sizeof got), 4);
	EQ(send_type(b, DATA, "five", 4, 0), 4);
	EQ(read(a, got, sizeof got), 4);
	ERR(setsockopt(a, SOL_TLS, AFTLS_NEXT_RECORD, &next, sizeof next), EOPNOTSUPP);
	ERR(getsockopt(a, SOL_TLS, AFTLS_NEXT_RECORD, &next, &len), EOPNOTSUPP);
	/* A fatal one ends it, and is still there. */
	EQ(send_type(b, ALERT, "\2\120", 2, 0), 2);
	ERR(read(a, got, sizeof got), ECONNRESET);
	EQ(recv_type(a, got, sizeof got, MSG_ERRQUEUE, &type, NULL), 2);
	EQ(got[1], 80);
	close_pair();
}

static void c_dgram_control_fd(void)
{
	int fd[2], ctl;
	socklen_t len = sizeof ctl;
	struct { uint8_t kind, type; uint16_t flags; uint32_t length; uint64_t offset; char body[300]; } m;

	udp_pair(fd);
	MUST(a = socket(AF_TLS, SOCK_DGRAM, 0));
	ERR(getsockopt(a, SOL_TLS, AFTLS_CONTROL_FD, &ctl, &len), ENOTCONN);
	close(a);
	a = bound(fd[0], AFTLS_THEIRS);
	EQ(getsockopt(a, SOL_TLS, AFTLS_CONTROL_FD, &ctl, &len), 0);
	int other;
	ERR(getsockopt(a, SOL_TLS, AFTLS_CONTROL_FD, &other, &len), EISCONN);
	EQ(set_dkey(a, TLS_TX, 0), 0);
	EQ(set_dkey(a, TLS_RX, 1), 0);
	b = dkeyed(fd[1], 1);
	EQ(send_type(b, ALERT, "\1\144", 2, 0), 2);
	EQ(read(ctl, &m, sizeof m), 16 + 2);
	EQ(m.kind, 1);
	EQ(m.type, ALERT);
	memset(&m, 0, 16);
	m.kind = 3; /* AFTLS_INFO */
	EQ(write(ctl, &m, 16), 16);
	EQ(read(ctl, &m, sizeof m), 16 + 80 + 32);
	close(b);
	EQ(read(a, got, sizeof got), 0);
	EQ(read(ctl, &m, sizeof m), 16 + 2);
	close(a);
	EQ(read(ctl, &m, sizeof m), 16 + 4);
	EQ(m.kind, 7);
	close(ctl);
	a = b = -1;
}

static void c_dgram_keys(void)
{
	struct tls12_crypto_info_aes_gcm_128 k = dkey(0, 1), live;
	socklen_t len = sizeof live;
	int fd[2];

	udp_pair(fd);
	MUST(a = socket(AF_TLS, SOCK_DGRAM, 0));
	ERR(set_dkey(a, TLS_TX, 0), ENOTCONN);
	close(a);
	a = bound(fd[0], 0);
	b = dkeyed(fd[1], 1);
	ERR(set_key(a, TLS_TX, 0), EINVAL); /* of TLS 1.3 */
	memset(k.rec_seq, 0, 8);
	ERR(setsockopt(a, SOL_TLS, TLS_TX, &k, sizeof k), EINVAL); /* no epoch */
	k = dkey(0, 1);
	for (size_t n = 0; n < sizeof k; n++)
		ERR(setsockopt(a, SOL_TLS, TLS_TX, &k, n), EINVAL);
	ERR(setsockopt(a, SOL_TLS, TLS_TX, (void *)8, sizeof k), EFAULT);
	ERR(setsockopt(a, SOL_TLS, 55, "x", 1), ENOPROTOOPT);
	ERR(getsockopt(a, SOL_TLS, TLS_TX, &live, &len), EBUSY);
	/* What is written before there are keys waits for them. */
	EQ(write(a, "waits", 5), 5);
	EQ(set_dkey(a, TLS_TX, 0), 0);
	ERR(set_dkey(a, TLS_TX, 0), EBUSY);
	ERR(recv(b, got, sizeof got, MSG_DONTWAIT), EAGAIN);
	struct tls12_crypto_info_aes_gcm_256 other = {{DTLS_1_2, TLS_CIPHER_AES_GCM_256}};
	other.rec_seq[1] = 1;
	ERR(setsockopt(a, SOL_TLS, TLS_RX, &other, sizeof other), EINVAL);
	EQ(set_dkey(a, TLS_RX, 1), 0);
	EQ(read(b, got, sizeof got), 5);
	ERR(set_dkey(a, TLS_RX, 1), EBUSY);
	/* Live numbers, with the epoch. */
	EQ(write(b, "x", 1), 1);
	EQ(read(a, got, sizeof got), 1);
	EQ(getsockopt(a, SOL_TLS, TLS_TX, &live, &len), 0);
	EQ(live.rec_seq[1], 1);
	EQ(live.rec_seq[7], 2);
	SAME(live.key, k.key, sizeof k.key);
	SAME(live.iv, live.rec_seq, 8);
	EQ(getsockopt(a, SOL_TLS, TLS_RX, &live, &len), 0);
	EQ(live.rec_seq[7], 2);
	len = 4;
	EQ(getsockopt(a, SOL_TLS, TLS_TX, &live, &len), 0);
	len = 5;
	ERR(getsockopt(a, SOL_TLS, TLS_TX, &live, &len), EINVAL);
	close_pair();
}

static void c_dgram_bind(void)
{
	int fd, again, udp[2], tcp[2], u[2], un = socket(AF_INET, SOCK_DGRAM, 0);

	udp_pair(udp);
	tcp_pair(tcp);
	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, u));
	ERR(socket(AF_TLS, SOCK_DGRAM, IPPROTO_UDP), EPROTONOSUPPORT);
	MUST(fd = socket(AF_TLS, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	TRUE(fcntl(fd, F_GETFL) & O_NONBLOCK);
	ERR(bind_to(fd, 999), EBADF);
	ERR(bind_to(fd, 0), ENOTSOCK);
	ERR(bind_to(fd, tcp[0]), EOPNOTSUPP);
	ERR(bind_to(fd, u[0]), EOPNOTSUPP);
	ERR(bind_to(fd, fd), EOPNOTSUPP);
	ERR(bind_to(fd, un), ENOTCONN);
	EQ(bind_to(fd, udp[0]), 0);
	ERR(bind_to(fd, udp[0]), EINVAL);
	MUST(again = socket(AF_TLS, SOCK_DGRAM, 0));
	ERR(bind_to(again, udp[0]), EADDRINUSE);
	/* A stream socket takes none of these. */
	close(again);
	MUST(again = socket(AF_TLS, SOCK_STREAM, 0));
	ERR(bind_to(again, udp[1]), EOPNOTSUPP);
	EQ(bind_to(again, tcp[0]), 0);
	struct tls12_crypto_info_aes_gcm_128 k = dkey(0, 1);
	ERR(setsockopt(again, SOL_TLS, TLS_TX, &k, sizeof k), EINVAL);
	EQ(setsockopt(tcp[1], IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls"), 0);
	ERR(setsockopt(tcp[1], SOL_TLS, TLS_TX, &k, sizeof k), EINVAL);
	/* It blocks its carrier as little as it did before. */
	EQ(fcntl(udp[0], F_GETFL) & O_NONBLOCK, 0);
	/* Closed without keys its carrier is dead. */
	close(fd);
	while (send(udp[0], "plain", 5, MSG_NOSIGNAL) == 5)
		sched_yield();
	int e = errno;
	EQ(e, EPIPE);
	for (int i = 0; i < 2; i++) {
		close(udp[i]);
		close(tcp[i]);
		close(u[i]);
	}
	close(un);
	close(again);
}

static const struct cell cells[] = {
	{"dgram_read_write", c_dgram_read_write, K_DATAGRAMS},
	{"dgram_flags", c_dgram_flags, K_DATAGRAMS},
	{"dgram_msg", c_dgram_msg, K_DATAGRAMS},
	{"dgram_poll", c_dgram_poll, K_DATAGRAMS},
	{"dgram_too_long", c_dgram_too_long, K_DATAGRAMS},
	{"dgram_refused", c_dgram_refused, K_DATAGRAMS},
	{"dgram_names", c_dgram_names, K_DATAGRAMS},
	{"dgram_addresses", c_dgram_addresses, K_DTLS},
	{"dgram_filter", c_dgram_filter, K_DTLS},
	{"dgram_end", c_dgram_end, K_DTLS},
	{"dgram_hostile", c_dgram_hostile, K_DTLS},
	{"dgram_control", c_dgram_control, K_DTLS},
	{"dgram_control_fd", c_dgram_control_fd, K_DTLS},
	{"dgram_keys", c_dgram_keys, K_DTLS},
	{"dgram_bind", c_dgram_bind, K_DTLS},
};

MAIN(cells)
