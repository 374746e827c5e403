/*
 * A program that does what its standard input says, one line at a time, and says
 * in one line what came of it. transcript.py is the same in Python: the tests let
 * both play the same lines. Wrong lines end it, as they are the test's fault.
 */
#define _GNU_SOURCE
#include "aftls.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

static int daemon_fd = -1, data = -1, control = -1;

/* Keys of a direction, as they were told. */
struct keys {
	uint16_t form, length;
	union {
		struct aftls_traffic_secret secret;
		struct tls12_crypto_info_aes_gcm_128 aes128;
		struct tls12_crypto_info_aes_gcm_256 aes256;
		struct tls12_crypto_info_chacha20_poly1305 chacha;
	} as;
};

static struct keys tx, rx;
static unsigned char unread[2 * AFTLS_MAX_UNREAD];
static size_t unread_length;

static void must(int ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "transcript: %s\n", what);
		exit(2);
	}
}

static char *word(void)
{
	char *w = strtok(NULL, " ");

	must(w != NULL, "a word is missing");
	return w;
}

static unsigned long long number(void)
{
	return strtoull(word(), NULL, 0);
}

static size_t hex(unsigned char *to, size_t room)
{
	const char *w = word();
	size_t n = 0;
	unsigned byte;

	for (; strcmp(w, "-") != 0 && sscanf(w, "%2x", &byte) == 1; w += 2) {
		must(n < room, "too many bytes");
		to[n++] = (unsigned char)byte;
	}
	return n;
}

static void say_hex(const unsigned char *b, size_t n)
{
	if (n == 0)
		putchar('-');
	for (; n > 0; n--)
		printf("%02x", *b++);
}

static void outcome(int failed)
{
	if (failed)
		printf("errno %d\n", errno);
	else
		puts("ok");
}

static void set_keys(struct keys *k)
{
	const char *form = word();
	uint16_t version = 0x0304, cipher;
	unsigned char b[48], iv[12], seq[8];
	uint64_t next;
	size_t n;
	int i;

	memset(k, 0, sizeof *k);
	if (strcmp(form, "secret") == 0 || strcmp(form, "dtls-secret") == 0) {
		cipher = (uint16_t)number();
		next = number();
		n = hex(b, sizeof b);
		k->form = AFTLS_TRAFFIC_SECRET;
		k->length = sizeof k->as.secret;
		i = aftls_set_secret(&k->as.secret, cipher, b, n, next);
		if (form[0] == 'd')
			k->as.secret.version = AFTLS_DTLS_1_3;
		outcome(i);
		return;
	}
	version = (uint16_t)number();
	cipher = (uint16_t)number();
	next = number();
	hex(b, sizeof b);
	n = hex(iv, sizeof iv);
	for (i = 0; i < 8; i++)
		seq[i] = (unsigned char)(next >> (56 - 8 * i));
	if (n == 4) /* TLS 1.2: the rest of the nonce is the number */
		memcpy(iv + 4, seq, 8);
	k->form = AFTLS_CRYPTO_INFO;
	switch (cipher) {
#define FILL(m, key_size) \
	k->length = sizeof k->as.m; \
	k->as.m.info.version = version; \
	k->as.m.info.cipher_type = cipher; \
	memcpy(k->as.m.key, b, key_size); \
	memcpy(k->as.m.rec_seq, seq, 8)
	case TLS_CIPHER_CHACHA20_POLY1305:
		FILL(chacha, 32);
		memcpy(k->as.chacha.iv, iv, 12);
		break;
	case TLS_CIPHER_AES_GCM_256:
		FILL(aes256, 32);
		memcpy(k->as.aes256.salt, iv, 4);
		memcpy(k->as.aes256.iv, iv + 4, 8);
		break;
	default:
		FILL(aes128, 16);
		memcpy(k->as.aes128.salt, iv, 4);
		memcpy(k->as.aes128.iv, iv + 4, 8);
	}
	outcome(0);
}

static void handoff(void)
{
	struct aftls_handoff h;
	struct aftls_error why;
	const char *w;

	memset(&h, 0, sizeof h);
	h.carrier = (int)number();
	while ((w = strtok(NULL, " ")) != NULL) {
		if (strcmp(w, "control") == 0)
			h.flags |= AFTLS_CONTROL;
		else if (strcmp(w, "kernel") == 0)
			h.flags |= AFTLS_KERNEL;
		else
			h.flags |= AFTLS_CLIENT;
	}
	h.form = tx.form;
	h.length = tx.length;
	h.tx = &tx.as;
	h.rx = &rx.as;
	h.unread = unread;
	h.unread_length = unread_length;
	data = aftls_hand_off(daemon_fd, &h, &control, &why);
	if (data >= 0) {
		puts("ok");
		return;
	}
	must(why.error == (uint32_t)errno, "errno is another one than that of the reason");
	printf("%s %d %s\n", data == AFTLS_LOST ? "lost" : "refused", errno, why.text);
}

static uint32_t crc32(uint32_t crc, const unsigned char *b, size_t n)
{
	int i;

	for (; n > 0; n--) {
		crc ^= *b++;
		for (i = 0; i < 8; i++)
			crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1)));
	}
	return crc;
}

static void read_data(void)
{
	static unsigned char b[1 << 16];
	size_t want = (size_t)number(), got = 0;
	uint32_t crc = ~0u;
	ssize_t n = 1;

	while (got < want && n > 0) {
		n = read(data, b, want - got < sizeof b ? want - got : sizeof b);
		if (n > 0) {
			crc = crc32(crc, b, (size_t)n);
			got += (size_t)n;
		}
	}
	printf("read %zu crc %08x", got, ~crc);
	if (n == 0)
		printf(" end");
	if (n < 0)
		printf(" errno %d", errno);
	putchar('\n');
}

static int write_all(const unsigned char *b, size_t n)
{
	ssize_t m;

	for (; n > 0; n -= (size_t)m, b += m) {
		m = send(data, b, n, MSG_NOSIGNAL);
		if (m < 0)
			return -1;
	}
	return 0;
}

static void fill(void)
{
	static unsigned char b[251 * 256];
	size_t left = (size_t)number(), i, n;
	int failed = 0;

	for (i = 0; i < sizeof b; i++)
		b[i] = (unsigned char)(i % 251);
	for (; left > 0 && !failed; left -= n) {
		n = left < sizeof b ? left : sizeof b;
		failed = write_all(b, n);
	}
	outcome(failed);
}

static void message(void)
{
	static unsigned char b[251 * 100];
	size_t i, n = (size_t)number();

	for (i = 0; i < n; i++)
		b[i] = (unsigned char)(i % 251);
	outcome(send(data, b, n, MSG_NOSIGNAL) != (ssize_t)n);
}

static void echo(void)
{
	static unsigned char b[1 << 16];
	size_t total = 0;
	ssize_t n;

	while ((n = read(data, b, sizeof b)) > 0) {
		if (write_all(b, (size_t)n) < 0) {
			n = -1;
			break;
		}
		total += (size_t)n;
	}
	if (n < 0)
		printf("errno %d\n", errno);
	else
		printf("echoed %zu\n", total);
}

static void say_direction(const char *name, const struct aftls_direction *d)
{
	printf(" %s %04x %04x seq %llu records %llu bytes %llu epoch %llu", name, (unsigned)d->version,
	       (unsigned)d->suite, (unsigned long long)d->seq, (unsigned long long)d->records,
	       (unsigned long long)d->bytes, (unsigned long long)d->epoch);
}

static void say_off(struct aftls_event *e)
{
	unsigned char *whole = NULL;
	size_t n = 0;
	uint32_t state;

	for (;;) {
		must(e->head.kind == AFTLS_OFF, "another message between the parts of one");
		whole = realloc(whole, n + e->head.length);
		must(whole != NULL, "no memory");
		memcpy(whole + n, e->body.bytes, e->head.length);
		n += e->head.length;
		if (!(e->head.flags & AFTLS_MORE))
			break;
		must(aftls_receive(control, e) == 1, "the rest of the state is missing");
	}
	must(n >= sizeof state, "the state has no length");
	memcpy(&state, whole, sizeof state);
	must(state <= n - sizeof state, "the state is cut");
	printf("off ");
	say_hex(whole + sizeof state, state);
	putchar(' ');
	say_hex(whole + sizeof state + state, n - sizeof state - state);
	putchar('\n');
	free(whole);
}

static void receive(void)
{
	static struct aftls_event e;
	int got = aftls_receive(control, &e);

	if (got <= 0) {
		if (got == 0)
			puts("closed");
		else
			outcome(1);
		return;
	}
	switch (e.head.kind) {
	case AFTLS_RECORD:
		printf("record %u offset %llu ", (unsigned)e.head.type, (unsigned long long)e.head.offset);
		say_hex(e.body.bytes, e.head.length);
		putchar('\n');
		break;
	case AFTLS_INFO:
		printf("info");
		say_direction("tx", &e.body.info.tx);
		say_direction("rx", &e.body.info.rx);
		if (e.head.length >= sizeof e.body.datagrams) {
			const struct aftls_drops *d = &e.body.datagrams.drops;

			printf(" drops %llu %llu %llu %llu", (unsigned long long)d->bad, (unsigned long long)d->replayed,
			       (unsigned long long)d->lost, (unsigned long long)d->unsent);
		}
		putchar('\n');
		break;
	case AFTLS_OFF:
		say_off(&e);
		break;
	case AFTLS_ANSWER:
	case AFTLS_END:
		printf("%s %lu %s\n", e.head.kind == AFTLS_END ? "end" : "answer",
		       (unsigned long)e.body.error.error, e.body.error.text);
		break;
	case AFTLS_WARNING:
		printf("warning %lu limit %llu %s\n", (unsigned long)e.body.error.error,
		       (unsigned long long)e.head.offset, e.body.error.text);
		break;
	default:
		printf("kind %u\n", (unsigned)e.head.kind);
	}
}

static void on_alarm(int sig)
{
	ssize_t n = write(1, "signal\n", 7);

	(void)sig;
	(void)n;
}

/* Signals without SA_RESTART interrupt every system call that waits. */
static void receive_under_signals(void)
{
	struct sigaction act;
	struct itimerval every;

	memset(&act, 0, sizeof act);
	act.sa_handler = on_alarm;
	must(sigaction(SIGALRM, &act, NULL) == 0, "sigaction");
	memset(&every, 0, sizeof every);
	every.it_interval.tv_usec = every.it_value.tv_usec = 1000;
	must(setitimer(ITIMER_REAL, &every, NULL) == 0, "setitimer");
	receive();
	memset(&every, 0, sizeof every);
	setitimer(ITIMER_REAL, &every, NULL);
}

static void count_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	must(d != NULL, "no /proc");
	while (readdir(d))
		n++;
	closedir(d);
	printf("descriptors %d\n", n);
}

/* Where no descriptor can be taken any more. */
static void handoff_without_descriptors(void)
{
	struct rlimit before, now;
	int fd = dup(0);

	must(fd >= 0 && getrlimit(RLIMIT_NOFILE, &before) == 0, "no limit of descriptors");
	close(fd);
	now = before;
	now.rlim_cur = (rlim_t)fd;
	must(setrlimit(RLIMIT_NOFILE, &now) == 0, "setrlimit");
	handoff();
	must(setrlimit(RLIMIT_NOFILE, &before) == 0, "setrlimit");
}

static void obey(const char *w)
{
	static unsigned char b[AFTLS_MAX_RECORD + 1];
	uint8_t type;

	if (strcmp(w, "daemon") == 0) {
		if (daemon_fd >= 0)
			close(daemon_fd);
		w = word();
		daemon_fd = aftls_connect(strcmp(w, "default") == 0 ? NULL : w);
		outcome(daemon_fd < 0);
	} else if (strcmp(w, "tx") == 0) {
		set_keys(&tx);
	} else if (strcmp(w, "rx") == 0) {
		set_keys(&rx);
	} else if (strcmp(w, "unread") == 0) {
		unread_length = hex(unread, sizeof unread);
		outcome(0);
	} else if (strcmp(w, "handoff") == 0) {
		handoff();
	} else if (strcmp(w, "handoff-without-descriptors") == 0) {
		handoff_without_descriptors();
	} else if (strcmp(w, "read") == 0) {
		read_data();
	} else if (strcmp(w, "write") == 0) {
		w = word();
		outcome(write_all((const unsigned char *)w, strlen(w)));
	} else if (strcmp(w, "fill") == 0) {
		fill();
	} else if (strcmp(w, "message") == 0) {
		message();
	} else if (strcmp(w, "echo") == 0) {
		echo();
	} else if (strcmp(w, "shut") == 0) {
		outcome(shutdown(data, SHUT_WR));
	} else if (strcmp(w, "close") == 0) {
		outcome(close(data));
	} else if (strcmp(w, "close-control") == 0) {
		outcome(close(control));
	} else if (strcmp(w, "record") == 0) {
		type = (uint8_t)number();
		outcome(aftls_send_record(control, type, b, hex(b, sizeof b)));
	} else if (strcmp(w, "keys-tx") == 0) {
		outcome(aftls_send_keys(control, TLS_TX, &tx.as, tx.length));
	} else if (strcmp(w, "keys-rx") == 0) {
		outcome(aftls_send_keys(control, TLS_RX, &rx.as, rx.length));
	} else if (strcmp(w, "info") == 0) {
		outcome(aftls_ask_info(control));
	} else if (strcmp(w, "rekey") == 0) {
		outcome(aftls_ask_rekey(control));
	} else if (strcmp(w, "off") == 0) {
		outcome(aftls_ask_off(control));
	} else if (strcmp(w, "receive") == 0) {
		receive();
	} else if (strcmp(w, "receive-under-signals") == 0) {
		receive_under_signals();
	} else if (strcmp(w, "descriptors") == 0) {
		count_descriptors();
	} else {
		must(0, w);
	}
}

int main(void)
{
	static char line[4 * AFTLS_MAX_UNREAD + 100];

	while (fgets(line, sizeof line, stdin)) {
		char *w;

		line[strcspn(line, "\n")] = 0;
		w = strtok(line, " ");
		must(w != NULL, "an empty line");
		obey(w);
		fflush(stdout);
	}
	return 0;
}
