/* Records: of other types, held open, rekeyed, and bad ones. */
#include "posix.h"

static char big[4 * MAX_RECORD], got[4 * MAX_RECORD];

static void c_types(void)
{
	char x[32];
	int type, flags;

	open_pair();
	EQ(write(b, "before", 6), 6);
	EQ(send_type(b, HANDSHAKE, "\4ticket", 7, 0), 7);
	EQ(write(b, "after", 5), 5);
	await_bytes(a, 6);
	/* Never with data. */
	EQ(recv_type(a, x, sizeof x, 0, &type, &flags), 6);
	EQ(type, DATA);
	await(a, POLLIN);
	/* A short buffer leaves the rest of the same record. */
	EQ(recv_type(a, x, 3, MSG_PEEK, &type, &flags), 3);
	EQ(recv_type(a, x, 3, 0, &type, &flags), 3);
	EQ(type, HANDSHAKE);
	EQ(flags & MSG_EOR, 0);
	EQ(recv_type(a, x + 3, sizeof x, 0, &type, &flags), 4);
	EQ(type, HANDSHAKE);
	EQ(flags & MSG_EOR, MSG_EOR);
	SAME(x, "\4ticket", 7);
	EQ(read_all(a, x, 5), 5);
	SAME(x, "after", 5);
	close_pair();
}

/* Control records are not merged with each other. */
static void c_no_merge(void)
{
	char x[32];
	int type;

	open_pair();
	for (int i = 0; i < 5; i++)
		EQ(send_type(b, 30 + i, "abc", 3, 0), 3);
	EQ(write(b, "data", 4), 4);
	for (int i = 0; i < 5; i++) {
		EQ(recv_type(a, x, sizeof x, 0, &type, NULL), 3);
		EQ(type, 30 + i);
	}
	EQ(recv_type(a, x, sizeof x, 0, &type, NULL), 4);
	EQ(type, DATA);
	close_pair();
}

/* A control record without a place for its type. */
static void c_no_room(void)
{
	char x[32];
	int type, p[2];
	struct iovec v = {x, sizeof x};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1};

	open_pair();
	MUST(pipe(p));
	EQ(write(b, "data", 4), 4);
	EQ(send_type(b, ALERT, "\1\132", 2, 0), 2);
	await_bytes(a, 4);
	EQ(read_all(a, x, 4), 4); /* the data in front of it comes without */
	EQ(await(a, POLLIN) & POLLIN, POLLIN); /* and the record is readable */
	if (strict) {
		for (int i = 0; i < 2; i++) {
			ERR(read(a, x, sizeof x), EIO);
			ERR(readv(a, &v, 1), EIO);
			ERR(recv(a, x, sizeof x, MSG_PEEK), EIO);
			ERR(recvmsg(a, &h, 0), EIO);
			ERR(splice(a, NULL, p[1], NULL, 16, 0), EINVAL);
		}
		EQ(read(a, x, 0), 0);
	}
	h.msg_control = x + 16;
	h.msg_controllen = CMSG_LEN(0);
	v.iov_len = 4;
	ERR(recvmsg(a, &h, 0), EIO);
	EQ(recv_type(a, x, sizeof x, 0, &type, NULL), 2);
	EQ(type, ALERT);
	EQ(write(b, "x", 1), 1);
	EQ(read_all(a, x, 1), 1);
	close(p[0]);
	close(p[1]);
	close_pair();
}

/* What of a vector has a type. */
static void c_mmsg_types(void)
{
	char c[3][CMSG_SPACE(1)] __attribute__((aligned(8))), x[3][8];
	struct iovec v[3] = {{"one", 3}, {"t", 1}, {"two", 3}};
	struct mmsghdr h[3];

	memset(h, 0, sizeof h);
	memset(c, 0, sizeof c);
	for (int i = 0; i < 3; i++) {
		h[i].msg_hdr.msg_iov = &v[i];
		h[i].msg_hdr.msg_iovlen = 1;
	}
	h[1].msg_hdr.msg_control = c[1];
	h[1].msg_hdr.msg_controllen = sizeof c[1];
	struct cmsghdr *m = CMSG_FIRSTHDR(&h[1].msg_hdr);
	m->cmsg_level = SOL_TLS;
	m->cmsg_type = TLS_SET_RECORD_TYPE;
	m->cmsg_len = CMSG_LEN(1);
	*CMSG_DATA(m) = HANDSHAKE;
	open_pair();
	EQ(sendmmsg(b, h, 3, 0), 3);
	EQ(h[0].msg_len, 3);
	EQ(h[1].msg_len, 1);
	EQ(h[2].msg_len, 3);
	/* A bad one behind the first is a count. */
	m->cmsg_type = 99;
	EQ(sendmmsg(b, h, 3, 0), 1);
	for (int i = 0; i < 3; i++) {
		v[i].iov_base = x[i];
		v[i].iov_len = sizeof x[i];
		h[i].msg_hdr.msg_control = c[i];
		h[i].msg_hdr.msg_controllen = sizeof c[i];
	}
	int n = 0, types[4], len = 0;
	for (int done = 0; done < 4;) { /* as they come */
		n = recvmmsg(a, h, 3, MSG_WAITFORONE, NULL);
		MUST(n);
		for (int i = 0; i < n; i++) {
			m = CMSG_FIRSTHDR(&h[i].msg_hdr);
			TRUE(m != NULL && m->cmsg_level == SOL_TLS && m->cmsg_type == TLS_GET_RECORD_TYPE);
			if (m == NULL)
				return;
			if (*CMSG_DATA(m) == DATA)
				len += h[i].msg_len;
			types[done++ % 4] = *CMSG_DATA(m);
			h[i].msg_hdr.msg_controllen = sizeof c[i];
		}
		if (len == 9)
			break;
	}
	EQ(types[0], DATA);
	EQ(types[1], HANDSHAKE);
	EQ(types[2], DATA);
	EQ(len, 9);
	close_pair();
}

/* More than a record holds goes in several. */
static void c_long_control(void)
{
	int type;
	ssize_t sum = 0;

	open_pair();
	fill(big, sizeof big, 3);
	EQ(send_type(b, 99, big, 40000, 0), 40000);
	for (int i = 0; i < 3; i++) {
		ssize_t n = recv_type(a, got + sum, sizeof got - sum, 0, &type, NULL);

		EQ(type, 99);
		EQ(n, i < 2 ? MAX_RECORD : 40000 - 2 * MAX_RECORD);
		sum += n;
	}
	SAME(big, got, 40000);
	/* And nothing goes in none. */
	EQ(send_type(b, 99, big, 0, 0), 0);
	EQ(write(b, "x", 1), 1);
	EQ(recv_type(a, got, 4, 0, &type, NULL), 1);
	EQ(type, DATA);
	close_pair();
}

static void c_bad_cmsg(void)
{
	char c[CMSG_SPACE(4)] __attribute__((aligned(8)));
	struct iovec v = {"x", 1};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
	struct cmsghdr *m = CMSG_FIRSTHDR(&h);

	open_pair();
	memset(c, 0, sizeof c);
	m->cmsg_level = SOL_TLS;
	m->cmsg_len = CMSG_LEN(1);
	m->cmsg_type = TLS_GET_RECORD_TYPE;
	ERR(sendmsg(a, &h, 0), EINVAL);
	m->cmsg_type = TLS_SET_RECORD_TYPE;
	m->cmsg_len = CMSG_LEN(0);
	ERR(sendmsg(a, &h, 0), EINVAL);
	m->cmsg_len = 4000;
	ERR(sendmsg(a, &h, 0), EINVAL);
	m->cmsg_len = 0;
	ERR(sendmsg(a, &h, 0), EINVAL);
	m->cmsg_len = CMSG_LEN(1);
	m->cmsg_level = SOL_SOCKET + 5;
	ERR(sendmsg(a, &h, 0), EINVAL);
	h.msg_control = (void *)8;
	ERR(sendmsg(a, &h, 0), EFAULT);
	EQ(write(a, "y", 1), 1);
	EQ(read_all(b, got, 1), 1);
	EQ(got[0], 'y');
	close_pair();
}

static void c_msg_more(void)
{
	open_raw();
	EQ(send(a, "abc", 3, MSG_MORE), 3);
	EQ(send(a, "defg", 4, MSG_MORE), 4);
	EQ(send(a, "h", 1, 0), 1);
	int n = wire_record(b);
	if (strict)
		EQ(n, 8);
	else
		for (; n < 8; n += wire_record(b))
			;
	EQ(n, 8);
	/* A full record goes by itself. */
	EQ(send(a, big, MAX_RECORD + 10, MSG_MORE), MAX_RECORD + 10);
	if (strict) {
		EQ(wire_record(b), MAX_RECORD);
		/* A record of another type closes it. */
		EQ(send_type(a, ALERT, "\1\132", 2, 0), 2);
		EQ(wire_record(b), 10);
		EQ(wire_record(b), 2);
		/* So does one that is said to be data. */
		EQ(send(a, "abc", 3, MSG_MORE), 3);
		EQ(send_type(a, DATA, "de", 2, 0), 2);
		EQ(wire_record(b), 3);
		EQ(wire_record(b), 2);
		/* And MSG_EOR. */
		EQ(send(a, "abc", 3, MSG_MORE), 3);
		EQ(send(a, "def", 3, MSG_EOR), 3);
		EQ(wire_record(b), 6);
		/* An empty send does not. */
		EQ(send(a, "abc", 3, MSG_MORE), 3);
		EQ(send(a, "", 0, 0), 0);
		EQ(send(a, "d", 1, 0), 1);
		EQ(wire_record(b), 4);
	}
	close_pair();
}

/* A record that is still open at the close is not sent. */
static void c_msg_more_close(void)
{
	open_raw();
	EQ(send(a, "sent", 4, 0), 4);
	EQ(send(a, "held", 4, MSG_MORE), 4);
	close(a);
	int n = wire_record(b);
	if (strict) {
		EQ(n, 4);
		EQ(wire_record(b), -1);
	} else {
		TRUE(n == 8 || n == 4 && wire_record(b) == 4);
	}
	a = -1;
	close_pair();
}

/* Each call is a record, or full ones and the rest. */
static void c_boundaries(void)
{
	open_raw();
	if (strict) {
		EQ(write(a, "a", 1), 1);
		EQ(write(a, "bcd", 3), 3);
		EQ(write(a, big, 20000), 20000);
		EQ(wire_record(b), 1);
		EQ(wire_record(b), 3);
		EQ(wire_record(b), MAX_RECORD);
		EQ(wire_record(b), 20000 - MAX_RECORD);
	} else {
		EQ(write(a, big, 20000), 20000);
		for (int n = 0; n < 20000; n += wire_record(b))
			;
	}
	close_pair();
}

/* ---- KeyUpdate ---- */

static int set_next(int fd, int option, int d, int generation)
{
	struct tls12_crypto_info_aes_gcm_128 k = key(d);

	k.key[0] = generation;
	return setsockopt(fd, SOL_TLS, option, &k, sizeof k);
}

static const char key_update[5] = {24, 0, 0, 1, 0};

static void c_rekey(void)
{
	char x[32];
	int type, p[2];

	open_pair();
	MUST(pipe(p));
	for (int g = 1; g < 4; g++) {
		EQ(write(b, "old", 3), 3);
		EQ(send_type(b, HANDSHAKE, key_update, 5, 0), 5);
		EQ(set_next(b, TLS_TX, 1, g), 0);
		EQ(write(b, "new", 3), 3);
		await_bytes(a, 3);
		EQ(read_all(a, x, 3), 3);
		EQ(recv_type(a, x, sizeof x, 0, &type, NULL), 5);
		EQ(type, HANDSHAKE);
		EQ(x[0], 24);
		/* Nothing is opened with the old key. */
		if (strict) {
			EQ(ready(a, POLLIN), 0);
			ERR(read(a, x, 4), EKEYEXPIRED);
			ERR(recv(a, x, 4, MSG_PEEK), EKEYEXPIRED);
			ERR(splice(a, NULL, p[1], NULL, 4, 0), EKEYEXPIRED);
		}
		ERR(recv_type(a, x, 4, 0, &type, NULL), EKEYEXPIRED);
		EQ(set_next(a, TLS_RX, 1, g), 0);
		EQ(read_all(a, x, 3), 3);
		SAME(x, "new", 3);
	}
	close(p[0]);
	close(p[1]);
	close_pair();
}

static void c_rekey_errors(void)
{
	struct tls12_crypto_info_aes_gcm_128 k = key(0);

	open_pair();
	k.info.version = TLS_1_2_VERSION;
	ERR(setsockopt(a, SOL_TLS, TLS_TX, &k, sizeof k), EINVAL);
	ERR(setsockopt(a, SOL_TLS, TLS_RX, &k, sizeof k), EINVAL);
	struct tls12_crypto_info_chacha20_poly1305 c;
	memset(&c, 1, sizeof c);
	c.info.version = TLS_1_3_VERSION;
	c.info.cipher_type = TLS_CIPHER_CHACHA20_POLY1305;
	ERR(setsockopt(a, SOL_TLS, TLS_TX, &c, sizeof c), EINVAL);
	ERR(setsockopt(a, SOL_TLS, TLS_RX, &c, sizeof c), EINVAL);
	/* The socket goes on as it was. */
	EQ(write(a, "ab", 2), 2);
	EQ(read_all(b, got, 2), 2);
	close_pair();
	/* TLS 1.2 has no rekey. */
	version = TLS_1_2_VERSION;
	open_pair();
	ERR(set_next(a, TLS_TX, 0, 1), EBUSY);
	ERR(set_next(a, TLS_RX, 1, 1), EBUSY);
	EQ(write(a, "ab", 2), 2);
	EQ(read_all(b, got, 2), 2);
	close_pair();
	version = TLS_1_3_VERSION;
}

/* Keys behind the end of what they would open change nothing. */
static void c_rekey_behind_end(void)
{
	char x[8];
	int type;

	open_pair();
	shutdown(b, SHUT_WR);
	await(a, POLLIN);
	if (aftls)
		EQ(recv_type(a, x, 8, 0, &type, NULL), 2);
	EQ(read(a, x, 8), 0);
	EQ(set_next(a, TLS_RX, 1, 1), 0);
	EQ(read(a, x, 8), 0);
	EQ(write(a, "ab", 2), 2);
	EQ(read_all(b, x, 2), 2);
	close_pair();
}

/* New keys wait for the peer to take what comes before them; others who look at the
 * socket do not wait with them. */
static void *rekeyer(void *p)
{
	(void)p;
	return (void *)(long)(send_type(a, HANDSHAKE, key_update, 5, 0) == 5 && set_next(a, TLS_TX, 0, 1) == 0);
}

static void c_rekey_full(void)
{
	pthread_t t;
	ssize_t n, sum = 0, left;
	void *ok;
	int type;

	open_pair();
	nonblock(a, 1);
	for (int i = 0; i < 100000 && (n = write(a, big, sizeof big)) > 0; i++)
		sum += n;
	TRUE(errno == EAGAIN);
	nonblock(a, 0);
	MUST(-pthread_create(&t, NULL, rekeyer, NULL));
	for (int i = 0; i < 100; i++) {
		ERR(recv_type(a, got, 8, MSG_DONTWAIT, &type, NULL), EAGAIN);
		if (strict)
			ERR(recv(a, got, 8, MSG_DONTWAIT), EAGAIN);
		sched_yield();
	}
	EQ(write(b, "x", 1), 1); /* the other direction goes on */
	EQ(recv_type(a, got, 8, 0, &type, NULL), 1);
	for (left = sum; left > 0; left -= n) {
		n = read(b, got, left < (ssize_t)sizeof got ? left : (ssize_t)sizeof got);
		MUST(n);
		if (n == 0)
			break;
	}
	EQ(left, 0);
	EQ(recv_type(b, got, 8, 0, &type, NULL), 5);
	EQ(type, HANDSHAKE);
	EQ(set_next(b, TLS_RX, 0, 1), 0);
	pthread_join(t, &ok);
	TRUE(ok);
	EQ(write(a, "new", 3), 3);
	EQ(read_all(b, got, 3), 3);
	SAME(got, "new", 3);
	close_pair();
}

/* The same key twice would use its numbers twice. */
static void c_key_reuse(void)
{
	open_pair();
	EQ(write(a, "ab", 2), 2);
	EQ(read_all(b, got, 2), 2);
	ERR(set_key(a, TLS_TX, 0), EINVAL);
	close_pair();
}

/* ---- Live numbers ---- */

static long long seq(int fd, int option)
{
	struct tls12_crypto_info_aes_gcm_128 k;
	socklen_t len = sizeof k;
	long long n = 0;

	if (getsockopt(fd, SOL_TLS, option, &k, &len) < 0)
		return -1;
	for (int i = 0; i < 8; i++)
		n = n << 8 | k.rec_seq[i];
	return n;
}

static void c_live_numbers(void)
{
	struct tls12_crypto_info_aes_gcm_128 k, want = key(0);
	struct tls_crypto_info head;
	socklen_t len = sizeof k;
	int type;

	open_pair();
	EQ(getsockopt(a, SOL_TLS, TLS_TX, &k, &len), 0);
	EQ(len, sizeof k);
	SAME(&k, &want, sizeof k);
	len = sizeof head;
	EQ(getsockopt(a, SOL_TLS, TLS_TX, &head, &len), 0);
	EQ(len, sizeof head);
	EQ(head.version, TLS_1_3_VERSION);
	EQ(head.cipher_type, TLS_CIPHER_AES_GCM_128);
	for (socklen_t l = 0; l < sizeof k + 8; l++) {
		char room[sizeof k + 8];

		if (l == sizeof k || l == sizeof head)
			continue;
		len = l;
		ERR(getsockopt(a, SOL_TLS, TLS_TX, room, &len), EINVAL);
	}
	len = sizeof k;
	ERR(getsockopt(a, SOL_TLS, TLS_TX, (void *)8, &len), EFAULT);
	ERR(getsockopt(a, SOL_TLS, TLS_TX, &k, (void *)8), EFAULT);
	ERR(getsockopt(a, SOL_TLS, 77, &k, &len), ENOPROTOOPT);
	if (strict) { /* exact at any time */
		EQ(write(a, "abc", 3), 3);
		EQ(seq(a, TLS_TX), 1);
		EQ(write(a, big, 40000), 40000);
		EQ(seq(a, TLS_TX), 4);
		EQ(send(a, "abc", 3, MSG_MORE), 3);
		EQ(seq(a, TLS_TX), 4);
		EQ(send_type(a, ALERT, "\1\132", 2, 0), 2);
		EQ(seq(a, TLS_TX), 6);
		EQ(seq(b, TLS_RX), 0);
		await_bytes(b, 40006);
		EQ(seq(b, TLS_RX), 0);
		EQ(recv(b, got, 1, MSG_PEEK), 1);
		EQ(seq(b, TLS_RX), 1);
		EQ(read_all(b, got, 3), 3);
		EQ(seq(b, TLS_RX), 1);
		EQ(read_all(b, got, 1), 1);
		EQ(seq(b, TLS_RX), 2);
		EQ(read_all(b, got, 40002), 40002);
		EQ(seq(b, TLS_RX), 5);
		await(b, POLLIN);
		EQ(recv_type(b, got, 8, 0, &type, NULL), 2);
		EQ(seq(b, TLS_RX), 6);
	} else { /* exact when everything is through */
		EQ(send_type(a, ALERT, "\1\132", 2, 0), 2);
		EQ(recv_type(b, got, 8, 0, &type, NULL), 2);
		EQ(seq(a, TLS_TX), 1);
		EQ(seq(b, TLS_RX), 1);
	}
	close_pair();
}

/* The last numbers are not used: sending fails instead. */
static void c_seq_wrap(void)
{
	struct tls12_crypto_info_aes_gcm_128 k = key(0);
	int fd[2];

	signal(SIGPIPE, SIG_IGN);
	memset(k.rec_seq, 0xff, sizeof k.rec_seq);
	tcp_pair(fd);
	a = unkeyed(fd[0]);
	b = fd[1];
	EQ(setsockopt(a, SOL_TLS, TLS_TX, &k, sizeof k), 0);
	EQ(set_key(a, TLS_RX, 1), 0);
	if (strict) {
		ERR(send(a, "x", 1, 0), EBADMSG);
		ERR(send(a, "x", 1, 0), EBADMSG);
	} else {
		for (int i = 0; i < 1000000 && send(a, "x", 1, MSG_NOSIGNAL) == 1; i++)
			sched_yield(); /* until the one in front has failed */
		TRUE(send(a, "x", 1, MSG_NOSIGNAL) == -1);
	}
	nonblock(b, 1);
	ERR(read(b, got, 1), EAGAIN); /* nothing of it was sent */
	close_pair();
}

/* ---- Bad records: the peer is a TCP socket ---- */

/* sealed makes the records of what fd[1] of a pair with the same keys sends. */
static ssize_t sealed(const void *p, size_t n, int type, unsigned char *to)
{
	int fd[2], s;
	ssize_t len;

	tcp_pair(fd);
	s = keyed(fd[0], 1);
	EQ(type == DATA ? write(s, p, n) : send_type(s, type, p, n, 0), n);
	MUST(read_all(fd[1], to, 5));
	len = 5 + (to[3] << 8 | to[4]);
	MUST(read_all(fd[1], to + 5, len - 5));
	close(s);
	close(fd[1]);
	return len;
}

/* bad has a read meet a record and checks how the socket is from then on. */
static void bad(const unsigned char *r, size_t n, int want)
{
	char x[8];

	signal(SIGPIPE, SIG_IGN);
	open_raw();
	EQ(write(b, r, n), n);
	await(a, POLLIN);
	if (strict) {
		for (int i = 0; i < 3; i++) {
			ERR(read(a, x, sizeof x), want);
			ERR(recv(a, x, sizeof x, MSG_PEEK), want);
			ERR(write(a, "x", 1), want);
			ERR(send_type(a, ALERT, "\2\0", 2, 0), want);
		}
		int e = 0;
		socklen_t len = sizeof e;
		EQ(getsockopt(a, SOL_SOCKET, SO_ERROR, &e, &len), 0);
		EQ(e, want);
		EQ(getsockopt(a, SOL_SOCKET, SO_ERROR, &e, &len), 0);
		EQ(e, 0);
		ERR(read(a, x, sizeof x), want);
	} else {
		ERR(read(a, x, sizeof x), ECONNRESET);
		TRUE(write(a, "x", 1) == -1);
	}
	close_pair();
}

static void c_bad_tag(void)
{
	unsigned char r[256];
	ssize_t n = sealed("hello", 5, DATA, r);

	r[7] ^= 1;
	bad(r, n, EBADMSG);
}

static void c_bad_length(void)
{
	unsigned char r[256];
	ssize_t n = sealed("hello", 5, DATA, r);

	r[3] = 0x7f; /* 32 KiB */
	bad(r, n, EMSGSIZE);
	r[3] = 0;
	r[4] = 15; /* less than a tag */
	bad(r, 20, EBADMSG);
}

static void c_bad_version(void)
{
	unsigned char r[256];
	ssize_t n = sealed("hello", 5, DATA, r);

	r[1] = 2;
	bad(r, n, EINVAL);
}

/* What came before a bad record is read, whatever the size of the read. */
static void c_bad_behind_good(void)
{
	unsigned char r[512];
	ssize_t n = sealed("hello", 5, DATA, r);
	char x[64];

	memcpy(r + n, r, n); /* its number is that of the first */
	open_raw();
	EQ(write(b, r, 2 * n), 2 * n);
	EQ(read_all(a, x, 5), 5);
	SAME(x, "hello", 5);
	ERR(read(a, x, sizeof x), strict ? EBADMSG : ECONNRESET);
	close_pair();
}

/* The connection ends inside of a record. */
static void c_cut(void)
{
	unsigned char r[256];
	ssize_t n = sealed("hello", 5, DATA, r);
	char x[8];

	open_raw();
	EQ(write(b, r, n), n);
	EQ(write(b, r, n - 3), n - 3);
	shutdown(b, SHUT_WR);
	EQ(read_all(a, x, 5), 5);
	if (ulp) /* Linux does not judge */
		EQ(read(a, x, 8), 0);
	else
		ERR(read(a, x, 8), ECONNRESET);
	close_pair();
}

/* Half of a record wakes nobody into an error. */
static void c_partial(void)
{
	unsigned char r[256];
	ssize_t n = sealed("hello", 5, DATA, r);
	char x[8];

	open_raw();
	EQ(write(b, r, 7), 7);
	EQ(ready(a, POLLIN), 0);
	ERR(recv(a, x, 8, MSG_DONTWAIT), EAGAIN);
	EQ(write(b, r + 7, n - 7), n - 7);
	EQ(read_all(a, x, 5), 5);
	close_pair();
}

/* The peer resets the connection. */
static void c_reset(void)
{
	struct linger l = {1, 0};
	char x[8];

	signal(SIGPIPE, SIG_IGN);
	open_raw();
	MUST(setsockopt(b, SOL_SOCKET, SO_LINGER, &l, sizeof l));
	close(b);
	await(a, POLLIN);
	ERR(read(a, x, 8), ECONNRESET);
	if (strict) { /* a socket says it once */
		EQ(read(a, x, 8), 0);
		ERR(write(a, "x", 1), EPIPE);
	}
	b = -1;
	close_pair();
}

/* Data behind one's own close_notify is refused, as nobody would read it. */
static void c_behind_close_notify(void)
{
	char x[8];
	int type;
	ssize_t n = 0;

	signal(SIGPIPE, SIG_IGN);
	open_pair();
	EQ(send_type(a, ALERT, "\1\0", 2, 0), 2);
	for (int i = 0; i < 1000000 && (n = write(a, "x", 1)) == 1; i++)
		sched_yield(); /* until the first one has failed */
	TRUE(n == -1 && errno == EPIPE);
	EQ(recv_type(b, x, 8, 0, &type, NULL), 2);
	EQ(type, ALERT);
	close_pair();
}

/* close_notify, and the end behind it. */
static void c_close_notify(void)
{
	char x[8];
	int type;

	open_pair();
	EQ(write(b, "data", 4), 4);
	EQ(send_type(b, ALERT, "\1\0", 2, 0), 2); /* close_notify */
	shutdown(b, SHUT_WR);
	EQ(read_all(a, x, 4), 4);
	await(a, POLLIN);
	EQ(recv_type(a, x, 8, 0, &type, NULL), 2);
	EQ(type, ALERT);
	EQ(recv_type(a, x, 8, 0, &type, NULL), 0);
	EQ(read(a, x, 8), 0);
	close_pair();
}

static const struct cell cells[] = {
	{"types", c_types, K_TLS},
	{"no_merge", c_no_merge, K_TLS},
	{"no_room", c_no_room, K_TLS},
	{"mmsg_types", c_mmsg_types, K_TLS},
	{"long_control", c_long_control, K_TLS},
	{"bad_cmsg", c_bad_cmsg, K_TLS},
	{"msg_more", c_msg_more, K_TLS},
	{"msg_more_close", c_msg_more_close, K_TLS},
	{"boundaries", c_boundaries, K_TLS},
	{"rekey", c_rekey, K_TLS},
	{"rekey_errors", c_rekey_errors, K_TLS},
	{"rekey_behind_end", c_rekey_behind_end, K_TLS},
	{"rekey_full", c_rekey_full, K_TLS},
	{"key_reuse", c_key_reuse, K_TLS},
	{"live_numbers", c_live_numbers, K_TLS},
	{"seq_wrap", c_seq_wrap, K_TLS},
	{"bad_tag", c_bad_tag, K_TLS},
	{"bad_length", c_bad_length, K_TLS},
	{"bad_version", c_bad_version, K_TLS},
	{"bad_behind_good", c_bad_behind_good, K_TLS},
	{"cut", c_cut, K_TLS},
	{"partial", c_partial, K_TLS},
	{"reset", c_reset, K_TLS},
	{"close_notify", c_close_notify, K_TLS},
	{"behind_close_notify", c_behind_close_notify, K_TLS},
};
MAIN(cells)
