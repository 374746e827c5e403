/* Reading and writing, call by call. */
#include "posix.h"

static char big[1 << 20], got[1 << 20];
static volatile int too_many = 1025; /* iovecs */

static void c_read(void)
{
	char p[16];

	open_pair();
	EQ(write(b, "hello", 5), 5);
	EQ(read_all(a, p, 5), 5);
	SAME(p, "hello", 5);
	EQ(read(a, p, 0), 0);
	/* A short buffer leaves the rest. */
	EQ(write(b, "abcdef", 6), 6);
	await_bytes(a, 6);
	EQ(read(a, p, 2), 2);
	EQ(read(a, p + 2, 10), 4);
	SAME(p, "abcdef", 6);
	/* Data of several sends is one stream. */
	EQ(write(b, "aaa", 3), 3);
	EQ(write(b, "bbb", 3), 3);
	await_bytes(a, 6);
	EQ(read(a, p, sizeof p), 6);
	SAME(p, "aaabbb", 6);
	close_pair();
}

static void c_readv(void)
{
	char x[4], y[4];
	struct iovec v[3] = {{x, 4}, {NULL, 0}, {y, 4}};

	open_pair();
	EQ(write(b, "abcdefg", 7), 7);
	await_bytes(a, 7);
	EQ(readv(a, v, 3), 7);
	SAME(x, "abcd", 4);
	SAME(y, "efg", 3);
	ERR(readv(a, v, too_many), EINVAL);
	close_pair();
}

static void c_preadv2(void)
{
	char x[4];
	struct iovec v = {x, 4};

	open_pair();
	EQ(write(b, "abcd", 4), 4);
	await_bytes(a, 4);
	EQ(preadv2(a, &v, 1, -1, 0), 4);
	SAME(x, "abcd", 4);
	ERR(preadv2(a, &v, 1, 0, 0), ESPIPE);
	ERR(pread(a, x, 1, 0), ESPIPE);
	EQ(pwritev2(a, &v, 1, -1, 0), 4);
	ERR(pwrite(a, x, 1, 0), ESPIPE);
	EQ(read_all(b, x, 4), 4);
	close_pair();
}

static void c_recv(void)
{
	char p[16];
	struct sockaddr_storage from;
	socklen_t len = sizeof from;

	open_pair();
	EQ(write(b, "hello", 5), 5);
	await_bytes(a, 5);
	EQ(recv(a, p, sizeof p, 0), 5);
	EQ(write(b, "world", 5), 5);
	await_bytes(a, 5);
	EQ(recvfrom(a, p, sizeof p, 0, (struct sockaddr *)&from, &len), 5);
	SAME(p, "world", 5);
	EQ(len, 0);
	close_pair();
}

static void c_recv_peek(void)
{
	char p[16];

	open_pair();
	EQ(write(b, "abc", 3), 3);
	EQ(write(b, "def", 3), 3);
	await_bytes(a, 6);
	EQ(recv(a, p, 2, MSG_PEEK), 2);
	/* Peeking goes across records. */
	EQ(recv(a, p, sizeof p, MSG_PEEK), 6);
	SAME(p, "abcdef", 6);
	EQ(recv(a, p, 1, 0), 1);
	EQ(recv(a, p, sizeof p, MSG_PEEK), 5);
	EQ(recv(a, p, sizeof p, 0), 5);
	SAME(p, "bcdef", 5);
	ERR(recv(a, p, sizeof p, MSG_PEEK | MSG_DONTWAIT), EAGAIN);
	close_pair();
}

static void c_recv_dontwait(void)
{
	char p[16];

	open_pair();
	ERR(recv(a, p, sizeof p, MSG_DONTWAIT), EAGAIN);
	EQ(write(b, "x", 1), 1);
	await(a, POLLIN);
	EQ(recv(a, p, sizeof p, MSG_DONTWAIT), 1);
	ERR(recv(a, p, sizeof p, MSG_DONTWAIT), EAGAIN);
	close_pair();
}

static void c_recv_waitall(void)
{
	pid_t child;
	char p[10];

	open_pair();
	MUST(child = fork());
	if (child == 0) {
		for (int i = 0; i < 10; i++) {
			if (write(b, "0123456789" + i, 1) != 1)
				_exit(1);
			sched_yield();
		}
		_exit(0);
	}
	EQ(recv(a, p, 10, MSG_WAITALL), 10);
	SAME(p, "0123456789", 10);
	waitpid(child, NULL, 0);
	/* The end of the stream ends it. */
	EQ(write(b, "end", 3), 3);
	shutdown(b, SHUT_WR);
	EQ(recv(a, p, 10, MSG_WAITALL), 3);
	EQ(recv(a, p, 10, MSG_WAITALL), 0);
	close_pair();
}

static void c_recvmsg(void)
{
	char x[3], y[8];
	struct iovec v[2] = {{x, 3}, {y, 8}};
	struct msghdr h = {.msg_iov = v, .msg_iovlen = 2};
	int type, flags;

	open_pair();
	EQ(write(b, "abcdef", 6), 6);
	await_bytes(a, 6);
	EQ(recvmsg(a, &h, 0), 6);
	SAME(x, "abc", 3);
	SAME(y, "def", 3);
	EQ(h.msg_namelen, 0);
	if (strict) /* as the type had nowhere to go */
		EQ(h.msg_flags, MSG_CTRUNC | MSG_EOR);
	/* With room for a type there is one, of a TLS socket. */
	EQ(write(b, "abc", 3), 3);
	await_bytes(a, 3);
	EQ(recv_type(a, x, 2, 0, &type, &flags), 2);
	EQ(type, tls ? DATA : -1);
	EQ(flags & MSG_CTRUNC, 0);
	if (strict)
		EQ(flags & MSG_EOR, 0);
	EQ(recv_type(a, x, 2, 0, &type, &flags), 1);
	if (strict)
		EQ(flags & MSG_EOR, MSG_EOR);
	h.msg_iovlen = 1025;
	ERR(recvmsg(a, &h, MSG_DONTWAIT), EMSGSIZE);
	ERR(recvmsg(a, NULL, MSG_DONTWAIT), EFAULT);
	close_pair();
}

static void c_recvmmsg(void)
{
	char x[3][4];
	struct iovec v[3] = {{x[0], 4}, {x[1], 4}, {x[2], 4}};
	struct mmsghdr h[3];
	struct timespec zero = {0, 0}, bad = {0, 1000000000};

	memset(h, 0, sizeof h);
	for (int i = 0; i < 3; i++) {
		h[i].msg_hdr.msg_iov = &v[i];
		h[i].msg_hdr.msg_iovlen = 1;
	}
	open_pair();
	EQ(write(b, "abcdefghij", 10), 10);
	await_bytes(a, 10);
	EQ(recvmmsg(a, h, 3, 0, NULL), 3);
	EQ(h[0].msg_len, 4);
	EQ(h[1].msg_len, 4);
	EQ(h[2].msg_len, 2);
	SAME(x[2], "ij", 2);
	EQ(write(b, "abcdef", 6), 6);
	await_bytes(a, 6);
	EQ(recvmmsg(a, h, 3, MSG_WAITFORONE, NULL), 2);
	EQ(h[1].msg_len, 2);
	EQ(write(b, "abcdef", 6), 6);
	await_bytes(a, 6);
	EQ(recvmmsg(a, h, 3, 0, &zero), 1);
	EQ(recvmmsg(a, h, 3, MSG_DONTWAIT, NULL), 1);
	ERR(recvmmsg(a, h, 3, MSG_DONTWAIT, NULL), EAGAIN);
	ERR(recvmmsg(a, h, 3, 0, &bad), EINVAL);
	EQ(recvmmsg(a, h, 0, 0, NULL), 0);
	close_pair();
}

static void c_write(void)
{
	open_pair();
	EQ(write(a, "x", 0), 0);
	fill(big, sizeof big, 1);
	if (fork() == 0) {
		ssize_t n = write(a, big, sizeof big); /* blocks until it is all taken */

		_exit(n == sizeof big ? 0 : 1);
	}
	EQ(read_all(b, got, sizeof got), sizeof got);
	SAME(big, got, sizeof big);
	int st;
	wait(&st);
	EQ(st, 0);
	close_pair();
}

static void c_writev(void)
{
	struct iovec v[3] = {{"abc", 3}, {"", 0}, {"defg", 4}};
	char p[7];

	open_pair();
	EQ(writev(a, v, 3), 7);
	EQ(read_all(b, p, 7), 7);
	SAME(p, "abcdefg", 7);
	ERR(writev(a, v, too_many), EINVAL);
	close_pair();
	if (tls) { /* the slices share a record */
		open_raw();
		EQ(writev(a, v, 3), 7);
		EQ(wire_record(b), 7);
		close_pair();
	}
}

static void c_send(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	char p[16];

	open_pair();
	EQ(send(a, "abc", 3, 0), 3);
	EQ(send(a, "def", 3, MSG_NOSIGNAL | MSG_DONTWAIT), 3);
	if (is_tcp || strict) /* the address is not looked at */
		EQ(sendto(a, "ghi", 3, 0, (struct sockaddr *)&to, sizeof to), 3);
	else
		ERR(sendto(a, "ghi", 3, 0, (struct sockaddr *)&to, sizeof to), EISCONN);
	EQ(read_all(b, p, 6), 6);
	SAME(p, "abcdef", 6);
	close_pair();
}

static void c_send_flags(void)
{
	open_pair();
	if (strict) {
		ERR(send(a, "x", 1, MSG_OOB), EOPNOTSUPP);
		ERR(send(a, "x", 1, MSG_ZEROCOPY), EOPNOTSUPP);
		ERR(send(a, "x", 1, MSG_CONFIRM), EOPNOTSUPP);
		ERR(send(a, "x", 1, MSG_DONTROUTE), EOPNOTSUPP);
		ERR(send(a, "x", 1, MSG_MORE | MSG_EOR), EINVAL);
	}
	if (tls) {
		ERR(send_type(a, ALERT, "\1\0", 2, MSG_MORE), EINVAL);
		ERR(send_type(a, ALERT, "\1\0", 2, MSG_OOB), EOPNOTSUPP);
	}
	close_pair();
}

static void c_sendmsg(void)
{
	struct iovec v[2] = {{"abc", 3}, {"def", 3}};
	struct msghdr h = {.msg_iov = v, .msg_iovlen = 2};
	char p[6];

	open_pair();
	EQ(sendmsg(a, &h, 0), 6);
	EQ(read_all(b, p, 6), 6);
	SAME(p, "abcdef", 6);
	h.msg_iovlen = 1025;
	ERR(sendmsg(a, &h, 0), EMSGSIZE);
	ERR(sendmsg(a, NULL, 0), EFAULT);
	h.msg_iovlen = 0;
	EQ(sendmsg(a, &h, 0), 0);
	close_pair();
}

static void c_sendmmsg(void)
{
	struct iovec v[3] = {{"abc", 3}, {"de", 2}, {"f", 1}};
	struct mmsghdr h[3];
	char p[6];

	memset(h, 0, sizeof h);
	for (int i = 0; i < 3; i++) {
		h[i].msg_hdr.msg_iov = &v[i];
		h[i].msg_hdr.msg_iovlen = 1;
	}
	open_pair();
	EQ(sendmmsg(a, h, 3, 0), 3);
	EQ(h[0].msg_len, 3);
	EQ(h[1].msg_len, 2);
	EQ(h[2].msg_len, 1);
	EQ(read_all(b, p, 6), 6);
	SAME(p, "abcdef", 6);
	/* What fails behind the first one is a count. */
	h[1].msg_hdr.msg_iov = (void *)8;
	EQ(sendmmsg(a, h, 3, 0), 1);
	EQ(read_all(b, p, 3), 3);
	h[0].msg_hdr.msg_iov = (void *)8;
	ERR(sendmmsg(a, h, 3, 0), EFAULT);
	EQ(sendmmsg(a, h, 0, 0), 0);
	close_pair();
}

/* Memory of which the second page is not there. */
static char *half(void)
{
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(p == MAP_FAILED ? -1 : 0);
	MUST(munmap(p + 4096, 4096));
	return p;
}

static void c_write_efault(void)
{
	char *p = half();
	struct iovec v[2] = {{"abc", 3}, {p + 8192 + 64, 3}};
	long page = 4096;
	char *m;

	open_pair();
	ERR(write(a, p + page, 1), EFAULT);
	ERR(write(a, (void *)-1L, 1), EFAULT);
	ERR(send(a, p + page, 1, MSG_DONTWAIT), EFAULT);
	v[1].iov_base = p + page;
	if (strict) /* a record is copied, or it is not */
		ERR(writev(a, v, 2), EFAULT);
	munmap(p, page);
	/* Two records and a half. */
	m = mmap(NULL, 3 * MAX_RECORD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(munmap(m + 2 * MAX_RECORD + 4096, MAX_RECORD - 4096));
	if (strict) {
		EQ(write(a, m, 3 * MAX_RECORD), 2 * MAX_RECORD);
		EQ(read_all(b, got, 2 * MAX_RECORD), 2 * MAX_RECORD);
	}
	EQ(write(a, "x", 1), 1); /* the socket lives */
	munmap(m, 2 * MAX_RECORD + 4096);
	close_pair();
}

static void c_read_efault(void)
{
	char *p = half(), x[16];
	struct iovec v[2] = {{p + 4096 - 4, 4}, {p + 4096, 4}};

	open_pair();
	ERR(read(a, (void *)-1L, 1), EFAULT);
	EQ(write(b, "0123", 4), 4);
	EQ(write(b, "4567", 4), 4);
	await_bytes(a, 8);
	ERR(read(a, p + 4096, 4), EFAULT);
	if (strict) { /* nothing is lost: the next record is read once more */
		EQ(readv(a, v, 2), 4);
		SAME(p + 4096 - 4, "0123", 4);
		EQ(read(a, x, sizeof x), 4);
		SAME(x, "4567", 4);
	}
	munmap(p, 4096);
	close_pair();
}

/* 64 MiB in one call, of memory that is there once. */
static void c_write_large(void)
{
	const size_t size = 64 << 20;
	char *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct iovec v[64];
	pid_t child;
	int st;

	MUST(m == MAP_FAILED ? -1 : 0);
	for (int i = 0; i < 64; i++) {
		v[i].iov_base = m;
		v[i].iov_len = size / 64;
	}
	fill(m, size / 64, 3);
	open_pair();
	MUST(child = fork());
	if (child == 0) {
		for (int i = 0; i < 64; i++)
			if (read_all(b, got, sizeof got) != sizeof got || memcmp(got, m, sizeof got))
				_exit(1);
		_exit(0);
	}
	EQ(writev(a, v, 64), size);
	MUST(waitpid(child, &st, 0));
	EQ(st, 0);
	munmap(m, size);
	close_pair();
}

/* Two processes write large calls at once. Of TLS sockets of Linux the calls do not
 * mix. */
static void c_write_mixed(void)
{
	static char x[200000], y[200000];
	int st, order = 0;

	memset(x, 'x', sizeof x);
	memset(y, 'y', sizeof y);
	open_pair();
	for (int i = 0; i < 2; i++)
		if (fork() == 0) {
			for (int j = 0; j < 4; j++)
				if (write(a, i ? x : y, sizeof x) != sizeof x)
					_exit(1);
			_exit(0);
		}
	for (int j = 0; j < 8; j++) {
		EQ(read_all(b, got, sizeof x), sizeof x);
		order |= memcmp(got, x, sizeof x) && memcmp(got, y, sizeof y);
	}
	if (strict)
		EQ(order, 0);
	for (int i = 0; i < 2; i++) {
		MUST(wait(&st));
		EQ(st, 0);
	}
	close_pair();
}

/* Memory that another thread changes during the calls: some bytes are sent, as
 * many as were asked for. */
static volatile int stop;
static void *change(void *p)
{
	for (unsigned i = 0; !stop; i++)
		((volatile char *)p)[i % 4096] = (char)i;
	return NULL;
}

static void c_memory_changes(void)
{
	static char p[4096];
	pthread_t t;

	open_pair();
	stop = 0;
	MUST(-pthread_create(&t, NULL, change, p));
	for (int i = 0; i < 50; i++) {
		EQ(write(a, p, sizeof p), sizeof p);
		EQ(read_all(b, got, sizeof p), sizeof p);
	}
	stop = 1;
	pthread_join(t, NULL);
	close_pair();
}

static const struct cell cells[] = {
	{"read", c_read, K_ALL},
	{"readv", c_readv, K_ALL},
	{"preadv2", c_preadv2, K_ALL},
	{"recv", c_recv, K_ALL},
	{"recv_peek", c_recv_peek, K_ALL},
	{"recv_dontwait", c_recv_dontwait, K_ALL},
	{"recv_waitall", c_recv_waitall, K_ALL},
	{"recvmsg", c_recvmsg, K_ALL},
	{"recvmmsg", c_recvmmsg, K_ALL},
	{"write", c_write, K_ALL},
	{"writev", c_writev, K_ALL},
	{"send", c_send, K_ALL},
	{"send_flags", c_send_flags, K_ALL},
	{"sendmsg", c_sendmsg, K_ALL},
	{"sendmmsg", c_sendmmsg, K_ALL},
	{"write_efault", c_write_efault, K_ALL},
	{"read_efault", c_read_efault, K_ALL},
	{"write_large", c_write_large, K_ALL},
	{"write_mixed", c_write_mixed, K_ALL},
	{"memory_changes", c_memory_changes, K_ALL},
};
MAIN(cells)
