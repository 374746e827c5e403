/* Files, pipes, and how much is queued. */
#include "posix.h"

static char big[1 << 20], got[1 << 20];

/* A file with n bytes that has no name. */
static int file_of(size_t n)
{
	int fd = memfd_create("posix", 0);

	MUST(fd);
	fill(big, n, 7);
	EQ(write_all(fd, big, n), n);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static void pump_to(int fd, size_t n)
{
	if (fork() == 0) {
		ssize_t m = read_all(fd, got, n);

		_exit(m == (ssize_t)n && !memcmp(big, got, n) ? 0 : 1);
	}
}

static void child_ok(void)
{
	int st;

	MUST(wait(&st));
	EQ(st, 0);
}

static void c_sendfile(void)
{
	int f = file_of(300000);
	off_t off = 0;

	open_pair();
	pump_to(b, 300000);
	EQ(sendfile(a, f, NULL, 300000), 300000);
	child_ok();
	EQ(lseek(f, 0, SEEK_CUR), 300000);
	EQ(sendfile(a, f, NULL, 10), 0); /* the end of the file */
	pump_to(b, 300000);
	EQ(sendfile(a, f, &off, 300000), 300000);
	EQ(off, 300000);
	EQ(lseek(f, 0, SEEK_CUR), 300000); /* it was not that of the file */
	child_ok();
	close(f);
	close_pair();
}

static void c_sendfile_offset(void)
{
	int f = file_of(1000);
	off_t off = 900;
	char p[200];

	open_pair();
	/* More than there is: what there is, and the record is closed. */
	EQ(sendfile(a, f, &off, 1 << 20), 100);
	EQ(off, 1000);
	EQ(read_all(b, p, 100), 100);
	SAME(p, big + 900, 100);
	EQ(sendfile(a, f, &off, 10), 0);
	off = 10;
	EQ(sendfile(a, f, &off, 20), 20);
	EQ(off, 30);
	EQ(read_all(b, p, 20), 20);
	SAME(p, big + 10, 20);
	close(f);
	close_pair();
	if (tls) {
		f = file_of(40000);
		open_raw();
		EQ(sendfile(a, f, NULL, 1 << 20), 40000);
		int sum = 0, n = 0;
		while (sum < 40000) {
			int len = wire_record(b);

			TRUE(len > 0);
			if (len <= 0)
				break;
			if (strict)
				EQ(len, n < 2 ? MAX_RECORD : 40000 - 2 * MAX_RECORD);
			sum += len;
			n++;
		}
		EQ(sum, 40000);
		close(f);
		close_pair();
	}
}

static void c_sendfile_errors(void)
{
	int f = file_of(10), p[2], wo;
	off_t off = -1;

	open_pair();
	MUST(pipe(p));
	ERR(sendfile(a, f, &off, 1), EINVAL);
	ERR(sendfile(a, f, (void *)8, 1), EFAULT);
	ERR(sendfile(a, -1, NULL, 1), EBADF);
	ERR(sendfile(a, p[0], NULL, 1), EINVAL);
	ERR(sendfile(a, b, NULL, 1), EINVAL);
	ERR(sendfile(1000, f, NULL, 1), EBADF);
	wo = open("/dev/null", O_WRONLY);
	ERR(sendfile(a, wo, NULL, 1), EBADF);
	EQ(sendfile(a, f, NULL, 0), 0);
	close(wo);
	close(p[0]);
	close(p[1]);
	close(f);
	close_pair();
}

/* What a sender that does not wait could not send is not lost from the file. */
static void c_sendfile_nonblock(void)
{
	const size_t size = 64 << 20;
	int f = memfd_create("posix", 0), rounds = 0;
	off_t off = 0, sum = 0;

	MUST(ftruncate(f, size));
	open_pair();
	nonblock(a, 1);
	while (off < (off_t)size) {
		off_t before = off;
		ssize_t n = sendfile(a, f, &off, size - off);

		if (n < 0 && errno != EAGAIN) {
			FAIL("sendfile: %s", strerror(errno));
			break;
		}
		EQ(off, before + (n > 0 ? n : 0));
		if (++rounds > 100000)
			break;
		while (sum < off) { /* all of it, so that there is room again */
			ssize_t m = read(b, got, off - sum < (off_t)sizeof got ? off - sum : (off_t)sizeof got);

			MUST(m);
			sum += m;
		}
	}
	EQ(sum, size);
	TRUE(rounds > 1);
	close(f);
	close_pair();
}

static void c_splice_in(void)
{
	int p[2];
	char x[16];

	open_pair();
	MUST(pipe(p));
	EQ(write(p[1], "hello", 5), 5);
	EQ(splice(p[0], NULL, a, NULL, 100, 0), 5);
	EQ(read_all(b, x, 5), 5);
	SAME(x, "hello", 5);
	ERR(splice(p[0], NULL, a, NULL, 100, SPLICE_F_NONBLOCK), EAGAIN);
	EQ(write(p[1], "world!", 6), 6);
	EQ(splice(p[0], NULL, a, NULL, 5, 0), 5);
	EQ(read(p[0], x, 16), 1); /* what was not asked for is still there */
	EQ(read_all(b, x, 5), 5);
	SAME(x, "world", 5);
	close(p[1]);
	EQ(splice(p[0], NULL, a, NULL, 100, 0), 0); /* the end of the pipe */
	close(p[0]);
	close_pair();
}

static void c_splice_in_large(void)
{
	int p[2];
	size_t sum = 0;

	open_pair();
	MUST(pipe(p));
	fill(big, sizeof big, 9);
	pump_to(b, sizeof big);
	if (fork() == 0) {
		close(p[0]);
		_exit(write_all(p[1], big, sizeof big) == sizeof big ? 0 : 1);
	}
	close(p[1]);
	for (;;) {
		ssize_t n = splice(p[0], NULL, a, NULL, sizeof big, 0);

		MUST(n);
		if (n == 0)
			break;
		sum += n;
	}
	EQ(sum, sizeof big);
	child_ok();
	child_ok();
	close(p[0]);
	close_pair();
}

static void c_splice_out(void)
{
	int p[2];
	char x[16];

	open_pair();
	MUST(pipe(p));
	if (!is_tcp) /* which only looks at O_NONBLOCK */
		ERR(splice(a, NULL, p[1], NULL, 16, SPLICE_F_NONBLOCK), EAGAIN);
	EQ(write(b, "abc", 3), 3);
	EQ(write(b, "def", 3), 3);
	await_bytes(a, 6);
	/* Of TLS sockets of Linux a call takes one record. */
	EQ(splice(a, NULL, p[1], NULL, 16, 0), strict ? 3 : 6);
	if (strict)
		EQ(splice(a, NULL, p[1], NULL, 16, 0), 3);
	EQ(read(p[0], x, 16), 6);
	SAME(x, "abcdef", 6);
	/* A part of a record. */
	EQ(write(b, "0123456789", 10), 10);
	EQ(splice(a, NULL, p[1], NULL, 4, 0), 4);
	EQ(splice(a, NULL, p[1], NULL, 16, 0), 6);
	EQ(read(p[0], x, 16), 10);
	shutdown(b, SHUT_WR);
	EQ(splice(a, NULL, p[1], NULL, 16, 0), 0);
	close(p[0]);
	close(p[1]);
	close_pair();
}

/* 20000 bytes are two records, and a pipe that is full makes the call wait. */
static void c_splice_out_large(void)
{
	int p[2], n;

	open_pair();
	MUST(pipe(p));
	fill(big, 20000, 5);
	EQ(write_all(b, big, 20000), 20000);
	await_bytes(a, 20000);
	if (strict) {
		EQ(splice(a, NULL, p[1], NULL, 20000, 0), MAX_RECORD);
		EQ(splice(a, NULL, p[1], NULL, 20000, 0), 20000 - MAX_RECORD);
		EQ(read_all(p[0], got, 20000), 20000);
	} else {
		EQ(read_all(a, got, 20000), 20000);
	}
	SAME(big, got, 20000);
	MUST(n = fcntl(p[1], F_SETPIPE_SZ, 4096));
	fill(big, n, 6);
	EQ(write(p[1], big, n), n);
	EQ(write(b, "x", 1), 1);
	await_bytes(a, 1);
	ERR(splice(a, NULL, p[1], NULL, 1, SPLICE_F_NONBLOCK), EAGAIN);
	if (fork() == 0)
		_exit(read_all(p[0], got, n) == n ? 0 : 1);
	EQ(splice(a, NULL, p[1], NULL, 1, 0), 1);
	child_ok();
	EQ(read(p[0], got, 16), 1);
	close(p[0]);
	close(p[1]);
	close_pair();
}

static void c_splice_errors(void)
{
	int p[2], f = file_of(10);
	loff_t off = 0;

	open_pair();
	MUST(pipe(p));
	ERR(splice(a, NULL, f, NULL, 1, 0), EINVAL); /* neither is a pipe */
	ERR(splice(f, NULL, a, NULL, 1, 0), EINVAL);
	ERR(splice(a, &off, p[1], NULL, 1, SPLICE_F_NONBLOCK), EINVAL);
	ERR(splice(p[0], NULL, a, &off, 1, SPLICE_F_NONBLOCK), EINVAL);
	ERR(splice(a, NULL, p[1], &off, 1, SPLICE_F_NONBLOCK), ESPIPE);
	ERR(splice(p[0], &off, a, NULL, 1, SPLICE_F_NONBLOCK), ESPIPE);
	ERR(splice(a, NULL, p[1], NULL, 1, 0x100), EINVAL);
	EQ(splice(a, NULL, p[1], NULL, 0, 0), 0);
	close(f);
	close(p[0]);
	close(p[1]);
	close_pair();
}

/* SPLICE_F_MORE holds the record open, as MSG_MORE does. */
static void c_splice_more(void)
{
	int p[2], n;

	open_raw();
	MUST(pipe(p));
	EQ(write(p[1], "abc", 3), 3);
	EQ(splice(p[0], NULL, a, NULL, 3, SPLICE_F_MORE), 3);
	EQ(write(p[1], "defg", 4), 4);
	EQ(splice(p[0], NULL, a, NULL, 4, 0), 4);
	n = wire_record(b);
	if (strict)
		EQ(n, 7);
	else
		TRUE(n == 7 || n == 3 && wire_record(b) == 4);
	close(p[0]);
	close(p[1]);
	close_pair();
}

/* vmsplice and tee are of pipes only; with splice they reach a socket. */
static void c_vmsplice(void)
{
	struct iovec v = {"gift", 4};
	int p[2];
	char x[4];

	open_pair();
	MUST(pipe(p));
	ERR(vmsplice(a, &v, 1, 0), EBADF);
	EQ(vmsplice(p[1], &v, 1, 0), 4);
	EQ(splice(p[0], NULL, a, NULL, 4, 0), 4);
	EQ(read_all(b, x, 4), 4);
	SAME(x, "gift", 4);
	close(p[0]);
	close(p[1]);
	close_pair();
}

static void c_tee(void)
{
	int p[2], q[2];
	char x[4];

	open_pair();
	MUST(pipe(p));
	MUST(pipe(q));
	ERR(tee(p[0], a, 4, SPLICE_F_NONBLOCK), EINVAL);
	ERR(tee(a, p[1], 4, SPLICE_F_NONBLOCK), EINVAL);
	EQ(write(p[1], "copy", 4), 4);
	EQ(tee(p[0], q[1], 4, 0), 4);
	EQ(splice(q[0], NULL, a, NULL, 4, 0), 4);
	EQ(read_all(b, x, 4), 4);
	SAME(x, "copy", 4);
	EQ(read(p[0], x, 4), 4);
	for (int i = 0; i < 2; i++) {
		close(p[i]);
		close(q[i]);
	}
	close_pair();
}

static void c_fionread(void)
{
	int n = -1;
	char x[4];

	open_pair();
	EQ(ioctl(a, FIONREAD, &n), 0);
	EQ(n, 0);
	EQ(write(b, "abcdef", 6), 6);
	await_bytes(a, 6);
	EQ(ioctl(a, SIOCINQ, &n), 0);
	EQ(n, 6);
	EQ(read(a, x, 4), 4);
	EQ(ioctl(a, FIONREAD, &n), 0);
	EQ(n, 2);
	if (tls) { /* a record of another type is one more */
		EQ(send_type(b, ALERT, "\1\132", 2, 0), 2);
		await_bytes(a, 3);
		EQ(ioctl(a, FIONREAD, &n), 0);
		EQ(n, 3);
	}
	close_pair();
}

static void c_siocoutq(void)
{
	int n = -1;
	char x[6];

	open_pair();
	EQ(write(a, "abcdef", 6), 6);
	EQ(ioctl(a, SIOCOUTQ, &n), 0);
	TRUE(n >= 0);
	EQ(read_all(b, x, 6), 6);
	close_pair();
}

static const struct cell cells[] = {
	{"sendfile", c_sendfile, K_ALL},
	{"sendfile_offset", c_sendfile_offset, K_ALL},
	{"sendfile_errors", c_sendfile_errors, K_ALL},
	{"sendfile_nonblock", c_sendfile_nonblock, K_ALL},
	{"splice_in", c_splice_in, K_ALL},
	{"splice_in_large", c_splice_in_large, K_ALL},
	{"splice_out", c_splice_out, K_ALL},
	{"splice_out_large", c_splice_out_large, K_ALL},
	{"splice_errors", c_splice_errors, K_ALL},
	{"splice_more", c_splice_more, K_TLS},
	{"vmsplice", c_vmsplice, K_ALL},
	{"tee", c_tee, K_ALL},
	{"fionread", c_fionread, K_ALL},
	{"siocoutq", c_siocoutq, K_ALL},
};
MAIN(cells)
