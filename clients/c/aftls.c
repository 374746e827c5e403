/* The client of the hand-off daemon. aftls.h says what each function does. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* secure_getenv */
#endif
#include "aftls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The structures go over the sockets as they are: there must be no gaps. */
typedef char request_has_no_gaps[sizeof(struct aftls_request) == 24 ? 1 : -1];
typedef char reply_has_no_gaps[sizeof(struct aftls_reply) == 12 ? 1 : -1];
typedef char secret_has_no_gaps[sizeof(struct aftls_traffic_secret) == 64 ? 1 : -1];
typedef char message_has_no_gaps[sizeof(struct aftls_message) == 16 ? 1 : -1];
typedef char info_has_no_gaps[sizeof(struct aftls_info) == 80 ? 1 : -1];
typedef char drops_have_no_gaps[sizeof(struct aftls_drops) == 32 ? 1 : -1];
typedef char event_has_no_gaps[offsetof(struct aftls_event, body) == 16 ? 1 : -1];

/*
 * A reply brings two descriptors; what nobody asked for must be seen to be closed.
 * The kernel fills the padding behind the room too: an even number has none.
 */
#define MAX_FDS 4

union rights {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
};

int aftls_connect(const char *path)
{
	static const char name[] = "/aftls.sock";
	const char *dir = "", *file = path;
	struct sockaddr_un a;
	size_t d, f;
	int fd, err;

	if (!path) {
		/* Whoever runs a set-user-ID program must not choose who gets its keys. */
		dir = secure_getenv("XDG_RUNTIME_DIR");
		if (!dir || !*dir)
			dir = "/run";
		file = name;
	}
	memset(&a, 0, sizeof a);
	a.sun_family = AF_UNIX;
	d = strlen(dir);
	f = strlen(file);
	if (d >= sizeof a.sun_path || f >= sizeof a.sun_path - d) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(a.sun_path, dir, d);
	memcpy(a.sun_path + d, file, f);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	/* Interrupted, a Unix socket is as it was, unlike one of TCP. */
	do
		err = connect(fd, (struct sockaddr *)&a, sizeof a) < 0 ? errno : 0;
	while (err == EINTR);
	if (err) {
		close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

int aftls_set_secret(struct aftls_traffic_secret *s, uint16_t cipher_type,
		     const void *secret, size_t length, uint64_t number)
{
	size_t want = cipher_type == TLS_CIPHER_AES_GCM_256 ? 48 : 32;
	int i;

	if (length != want || (want == 32 && cipher_type != TLS_CIPHER_AES_GCM_128 &&
			       cipher_type != TLS_CIPHER_CHACHA20_POLY1305)) {
		errno = EINVAL;
		return -1;
	}
	memset(s, 0, sizeof *s);
	s->version = 0x0304;
	s->cipher_type = cipher_type;
	s->secret_len = (uint16_t)length;
	for (i = 0; i < 8; i++)
		s->rec_seq[i] = (uint8_t)(number >> (56 - 8 * i));
	memcpy(s->secret, secret, length);
	return 0;
}

static ssize_t send_all(int fd, const struct msghdr *m)
{
	ssize_t n;

	/* A SEQPACKET message goes whole or not at all. */
	do
		n = sendmsg(fd, m, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n;
}

static ssize_t receive_all(int fd, struct msghdr *m)
{
	size_t room = m->msg_controllen;
	int resets = 0;
	ssize_t n;

	/*
	 * When the daemon closes its end with something of ours unread, the
	 * kernel reports ECONNRESET once, in front of messages that it sent
	 * before. They are there for the next call.
	 */
	do {
		m->msg_controllen = room;
		n = recvmsg(fd, m, MSG_CMSG_CLOEXEC);
	} while (n < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0)));
	return n;
}

/* take_fds stores the descriptors that came along, and counts them. */
static int take_fds(struct msghdr *m, int fds[MAX_FDS])
{
	struct cmsghdr *c;
	int n = 0;

	for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t i, count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < count && n < MAX_FDS; i++)
			memcpy(&fds[n++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
	}
	return n;
}

static int fail(int how, int err, const char *text, struct aftls_error *why)
{
	if (why) {
		size_t n = strlen(text);

		if (n >= sizeof why->text)
			n = sizeof why->text - 1;
		why->error = (uint32_t)err;
		memcpy(why->text, text, n);
		why->text[n] = 0;
	}
	errno = err;
	return how;
}

static int receive_reply(int daemon, int *control, struct aftls_error *why)
{
	struct aftls_reply reply;
	char text[256];
	union rights rights;
	struct iovec iov[2];
	struct msghdr m;
	int fds[MAX_FDS], count, i;
	ssize_t n;

	memset(&m, 0, sizeof m);
	iov[0].iov_base = &reply;
	iov[0].iov_len = sizeof reply;
	iov[1].iov_base = text;
	iov[1].iov_len = sizeof text - 1;
	m.msg_iov = iov;
	m.msg_iovlen = 2;
	m.msg_control = rights.bytes;
	m.msg_controllen = sizeof rights.bytes;
	n = receive_all(daemon, &m);
	if (n < 0 && errno != ECONNRESET)
		return fail(AFTLS_LOST, errno, "receiving the answer failed", why);
	if (n <= 0)
		return fail(AFTLS_LOST, ECONNRESET, "the daemon went away without an answer", why);
	count = take_fds(&m, fds);
	if ((size_t)n >= sizeof reply && reply.magic == AFTLS_MAGIC && reply.version == AFTLS_VERSION) {
		if (reply.error == 0 && count == (control ? 2 : 1)) {
			if (control)
				*control = fds[1];
			return fds[0];
		}
		if (reply.error != 0 && count == 0) {
			text[(size_t)n - sizeof reply] = 0;
			return fail(AFTLS_REFUSED, (int)reply.error, text, why);
		}
	}
	for (i = 0; i < count; i++)
		close(fds[i]);
	if (m.msg_flags & MSG_CTRUNC)
		return fail(AFTLS_LOST, EMFILE, "this process could not take the descriptors", why);
	return fail(AFTLS_LOST, EBADMSG, "what answered speaks another protocol", why);
}

int aftls_hand_off(int daemon, const struct aftls_handoff *h, int *control,
		   struct aftls_error *why)
{
	struct aftls_request request;
	union rights rights;
	struct cmsghdr *c;
	struct iovec iov[4];
	struct msghdr m;
	int err;

	if (!(h->flags & AFTLS_CONTROL))
		control = NULL;
	else if (!control)
		return fail(AFTLS_REFUSED, EINVAL, "there is no place for the control descriptor", why);
	memset(&request, 0, sizeof request);
	request.magic = AFTLS_MAGIC;
	request.version = AFTLS_VERSION;
	request.flags = h->flags;
	request.tx_form = request.rx_form = h->form;
	request.tx_len = request.rx_len = h->length;
	request.unread_len = (uint32_t)h->unread_length;
	iov[0].iov_base = &request;
	iov[0].iov_len = sizeof request;
	/* sendmsg writes to none of these: iovec has no const. */
	iov[1].iov_base = (void *)h->tx;
	iov[1].iov_len = h->length;
	iov[2].iov_base = (void *)h->rx;
	iov[2].iov_len = h->length;
	iov[3].iov_base = (void *)h->unread;
	iov[3].iov_len = h->unread_length;
	memset(&rights, 0, sizeof rights);
	memset(&m, 0, sizeof m);
	m.msg_iov = iov;
	m.msg_iovlen = 4;
	m.msg_control = rights.bytes;
	m.msg_controllen = CMSG_SPACE(sizeof(int));
	c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &h->carrier, sizeof(int));
	if (send_all(daemon, &m) < 0) {
		err = errno;
		/* A daemon that refuses a connection says why before it closes it. */
		if (err == EPIPE || err == ECONNRESET) {
			int got = receive_reply(daemon, control, why);

			if (got == AFTLS_REFUSED)
				return AFTLS_REFUSED;
			if (got >= 0) {
				close(got);
				if (control)
					close(*control);
			}
		}
		return fail(AFTLS_REFUSED, err, "sending the request failed", why);
	}
	return receive_reply(daemon, control, why);
}

static int send_message(int control, uint8_t kind, uint8_t type, const void *body, size_t length)
{
	struct aftls_message head;
	struct iovec iov[2];
	struct msghdr m;

	memset(&head, 0, sizeof head);
	head.kind = kind;
	head.type = type;
	head.length = (uint32_t)length;
	iov[0].iov_base = &head;
	iov[0].iov_len = sizeof head;
	iov[1].iov_base = (void *)body;
	iov[1].iov_len = length;
	memset(&m, 0, sizeof m);
	m.msg_iov = iov;
	m.msg_iovlen = 2;
	return send_all(control, &m) < 0 ? -1 : 0;
}

int aftls_send_record(int control, uint8_t type, const void *payload, size_t length)
{
	if (length > AFTLS_MAX_RECORD) {
		errno = EMSGSIZE;
		return -1;
	}
	return send_message(control, AFTLS_RECORD, type, payload, length);
}

int aftls_send_keys(int control, int direction, const void *crypto_info, size_t length)
{
	return send_message(control, AFTLS_KEYS, (uint8_t)direction, crypto_info, length);
}

int aftls_ask_info(int control)
{
	return send_message(control, AFTLS_INFO, 0, NULL, 0);
}

int aftls_ask_rekey(int control)
{
	return send_message(control, AFTLS_REKEY, 0, NULL, 0);
}

int aftls_ask_off(int control)
{
	return send_message(control, AFTLS_OFF, 0, NULL, 0);
}

int aftls_receive(int control, struct aftls_event *event)
{
	struct aftls_message *head = &event->head;
	struct iovec iov[2];
	struct msghdr m;
	size_t want = 0;
	ssize_t n;

	iov[0].iov_base = head;
	iov[0].iov_len = sizeof *head;
	iov[1].iov_base = event->body.bytes;
	iov[1].iov_len = sizeof event->body.bytes;
	memset(&m, 0, sizeof m);
	m.msg_iov = iov;
	m.msg_iovlen = 2;
	n = receive_all(control, &m);
	if (n < 0 && errno == ECONNRESET)
		return 0;
	if (n <= 0)
		return (int)n;
	if (m.msg_flags & MSG_TRUNC || (size_t)n < sizeof *head || head->length != (size_t)n - sizeof *head)
		goto bad;
	switch (head->kind) {
	case AFTLS_ANSWER:
	case AFTLS_END:
	case AFTLS_WARNING:
		want = sizeof event->body.error.error;
		if (head->length >= sizeof event->body.error)
			goto bad;
		event->body.bytes[head->length] = 0;
		break;
	case AFTLS_INFO:
		want = sizeof event->body.info;
		break;
	case AFTLS_RECORD:
	case AFTLS_OFF:
		break;
	default:
		goto bad;
	}
	if (head->length >= want)
		return 1;
bad:
	errno = EBADMSG;
	return -1;
}
