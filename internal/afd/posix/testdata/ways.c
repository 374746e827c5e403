/*
 * Four ways to tell records of other types from data, with one transcript. The
 * program sends and receives by one of them; the other end always uses control
 * messages, and says what came.
 *
 *	ways WORLD KIND WAY
 *
 * WAY is "fd" (a control descriptor), "errqueue", "option" (a stateful socket option)
 * or "cmsg".
 */
#include "posix.h"

struct message {
	uint8_t kind, type;
	uint16_t flags;
	uint32_t length;
	uint64_t offset;
	char body[MAX_RECORD];
};
enum { RECORD = 1, ANSWER = 6, END = 7 };

static int control = -1;
static const char *way;

static void say(const char *who, int type, const char *p, ssize_t n)
{
	if (type == ALERT && (n == 0 || n == 2 && p[1] == 0)) {
		/* AFTLS_NEXT_RECORD has no bytes for the record that ends the stream. */
		printf("%s close_notify\n", who);
		return;
	}
	printf("%s %d %zd ", who, type, n);
	for (ssize_t i = 0; i < n; i++)
		printf(p[i] > 32 && p[i] < 127 ? "%c" : "\\%02x", (unsigned char)p[i]);
	printf("\n");
}

/* ---- Sending ---- */

static void send_control(int type, const char *p, size_t n)
{
	if (!strcmp(way, "fd")) {
		struct message m = {RECORD, type, 0, n, 0, ""};

		memcpy(m.body, p, n);
		MUST(send(control, &m, 16 + n, 0));
		do {
			MUST(recv(control, &m, sizeof m, MSG_PEEK));
			if (m.kind == RECORD) /* one that came meanwhile stays for the reader */
				FAIL("a record before the answer");
		} while (m.kind == RECORD);
		MUST(recv(control, &m, sizeof m, 0));
		EQ(m.kind, ANSWER);
		TRUE(m.length >= 4 && !memcmp(m.body, "\0\0\0", 4));
	} else if (!strcmp(way, "option")) {
		struct aftls_next_record r = {type, 0, n};

		MUST(setsockopt(a, SOL_TLS, AFTLS_NEXT_RECORD, &r, sizeof r));
		EQ(write(a, p, n), n);
	} else {
		EQ(send_type(a, type, p, n, 0), n);
	}
}

/* ---- Receiving: what is next, as its type and bytes; 0 at the end ---- */

static uint64_t offset; /* of data that was read */

static int next_of_fd(char *p, ssize_t *n)
{
	static struct message m;
	static int have;

	for (;;) {
		struct pollfd f[2] = {{control, POLLIN, 0}, {a, POLLIN, 0}};

		if (have && m.kind == RECORD && m.offset == offset) {
			have = 0;
			*n = m.length;
			memcpy(p, m.body, m.length);
			return m.type;
		}
		f[0].fd = have ? -1 : control;
		MUST(poll(f, 2, -1));
		if (f[0].revents) {
			MUST(recv(control, &m, sizeof m, 0));
			have = 1;
			if (m.kind == RECORD)
				continue;
			EQ(m.kind, END);
		}
		if (have || f[1].revents) {
			size_t max;

			if (!have) {
				/* A record in front of data is told of before the data
				   can be seen: so look once more behind a peek. */
				MUST(*n = recv(a, p, 4096, MSG_PEEK));
				max = *n;
				if (recv(control, &m, sizeof m, MSG_DONTWAIT) > 0) {
					have = 1;
					continue;
				}
			} else {
				max = m.kind == RECORD ? m.offset - offset : 4096;
			}
			MUST(*n = read(a, p, max));
			offset += *n;
			return *n ? DATA : 0;
		}
	}
}

static int next_of_errqueue(char *p, ssize_t *n)
{
	for (;;) {
		short e = await(a, POLLIN | POLLPRI);
		int type;

		if (e & POLLPRI && (*n = recv_type(a, p, 4096, MSG_ERRQUEUE, &type, NULL)) >= 0)
			return type;
		*n = recv(a, p, 4096, MSG_DONTWAIT);
		if (*n < 0 && errno == EAGAIN)
			continue;
		MUST(*n);
		return *n ? DATA : 0;
	}
}

static int next_of_option(char *p, ssize_t *n)
{
	for (;;) {
		short e = await(a, POLLIN | POLLPRI);
		struct aftls_next_record r;
		socklen_t len = sizeof r;

		if (e & POLLPRI && getsockopt(a, SOL_TLS, AFTLS_NEXT_RECORD, &r, &len) == 0) {
			MUST(*n = read_all(a, p, r.length));
			return r.type;
		}
		*n = recv(a, p, 4096, MSG_DONTWAIT);
		if (*n < 0 && errno == EAGAIN)
			continue;
		MUST(*n);
		return *n ? DATA : 0;
	}
}

static int next_of_cmsg(int fd, char *p, ssize_t *n)
{
	int type;

	MUST(*n = recv_type(fd, p, 4096, 0, &type, NULL));
	return *n || type > 0 && type != DATA ? type : 0;
}

static int next(char *p, ssize_t *n)
{
	if (!strcmp(way, "fd"))
		return next_of_fd(p, n);
	if (!strcmp(way, "errqueue"))
		return next_of_errqueue(p, n);
	if (!strcmp(way, "option"))
		return next_of_option(p, n);
	return next_of_cmsg(a, p, n);
}

/* receive says everything up to the end; data is put together. */
static void receive(const char *who)
{
	static char data[1 << 16], p[4096];
	ssize_t have = 0, n = 0;
	int type;

	do {
		type = who[1] == 'r' ? next(p, &n) : next_of_cmsg(b, p, &n);
		if (type == DATA) {
			memcpy(data + have, p, n);
			have += n;
			continue;
		}
		if (have)
			say(who, DATA, data, have);
		have = 0;
		if (type)
			say(who, type, p, n);
	} while (type);
	printf("%s end\n", who);
}

int main(int argc, char **argv)
{
	int fd[2];

	if (argc < 4)
		return 2;
	cell_name = "ways";
	setvbuf(stdout, NULL, _IOLBF, 0);
	aftls = tls = 1;
	way = argv[3];
	alarm(30);
	tcp_pair(fd);
	a = unkeyed(fd[0]);
	if (!strcmp(way, "fd")) {
		socklen_t len = sizeof control;

		MUST(getsockopt(a, SOL_TLS, AFTLS_CONTROL_FD, &control, &len));
	}
	MUST(set_key(a, TLS_TX, 0));
	MUST(set_key(a, TLS_RX, 1));
	b = keyed(fd[1], 1);

	/* Out: data and records of three types, then the end. */
	EQ(write(a, "hello", 5), 5);
	send_control(HANDSHAKE, "\4ticket", 7);
	EQ(write(a, "wor", 3), 3);
	EQ(write(a, "ld", 2), 2);
	send_control(99, "x", 1);
	send_control(ALERT, "\1\132", 2);
	EQ(write(a, "tail", 4), 4);
	MUST(shutdown(a, SHUT_WR));
	receive("peer"); /* close_notify comes with it */

	/* In: the same from the other side, and two in a row. */
	EQ(write(b, "one", 3), 3);
	EQ(send_type(b, 99, "first", 5, 0), 5);
	EQ(send_type(b, HANDSHAKE, "second", 6, 0), 6);
	EQ(write(b, "two", 3), 3);
	EQ(write(b, "three", 5), 5);
	EQ(send_type(b, ALERT, "\1\132", 2, 0), 2);
	EQ(write(b, "four", 4), 4);
	MUST(shutdown(b, SHUT_WR));
	receive("program");
	return cell_failed;
}
