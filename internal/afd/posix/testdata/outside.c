/*
 * A TLS socket is given to a process that is not supervised.
 *
 *	outside WORLD KIND SOCKET
 */
#include "posix.h"

int main(int argc, char **argv)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	char c[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))), x[32];
	struct iovec v = {"x", 1};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
	struct cmsghdr *m = CMSG_FIRSTHDR(&h);
	int s;

	if (argc < 4)
		return 2;
	cell_name = "outside";
	aftls = !strcmp(argv[2], "aftls");
	ulp = !aftls;
	tls = 1;
	strict = ulp && !strcmp(argv[1], "strict");
	alarm(60);
	open_pair();
	if (strict) { /* a record that is held open goes in front of what others write */
		EQ(send(a, "held ", 5, MSG_MORE), 5);
		EQ(send(a, "open ", 5, 0), 5);
	} else {
		EQ(write(a, "held open ", 10), 10);
	}
	strncpy(to.sun_path, argv[3], sizeof to.sun_path - 1);
	MUST(s = socket(AF_UNIX, SOCK_SEQPACKET, 0));
	MUST(connect(s, (struct sockaddr *)&to, sizeof to));
	memset(c, 0, sizeof c);
	m->cmsg_level = SOL_SOCKET;
	m->cmsg_type = SCM_RIGHTS;
	m->cmsg_len = CMSG_LEN(sizeof a);
	memcpy(CMSG_DATA(m), &a, sizeof a);
	MUST(sendmsg(s, &h, 0));
	EQ(read_all(b, x, 22), 22);
	SAME(x, "held open from outside", 22);
	EQ(write(b, "from inside", 11), 11);
	EQ(read(s, x, 1), 0); /* until the other has read it */
	/* And the socket goes on here. */
	EQ(write(a, "on", 2), 2);
	EQ(read_all(b, x, 2), 2);
	EQ(write(b, "and", 3), 3);
	EQ(read_all(a, x, 3), 3);
	SAME(x, "and", 3);
	close_pair();
	return cell_failed;
}
