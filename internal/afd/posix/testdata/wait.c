/* Waiting, descriptors and their ends, names and options. */
#include "posix.h"

static char big[1 << 20], got[1 << 20];

static void child_ok(void)
{
	int st;

	MUST(wait(&st));
	EQ(st, 0);
}

static void timeout(int fd, int option, int ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	MUST(setsockopt(fd, SOL_SOCKET, option, &tv, sizeof tv));
}

static void c_so_rcvtimeo(void)
{
	char x[4];
	int type;

	open_pair();
	timeout(a, SO_RCVTIMEO, 20);
	ERR(read(a, x, 4), EAGAIN);
	ERR(recv(a, x, 4, 0), EAGAIN);
	ERR(recv_type(a, x, 4, 0, &type, NULL), EAGAIN);
	/* What came before the time is given. */
	EQ(write(b, "ab", 2), 2);
	await_bytes(a, 2);
	EQ(recv(a, x, 4, MSG_WAITALL), 2);
	timeout(a, SO_RCVTIMEO, 0);
	EQ(write(b, "ab", 2), 2);
	EQ(read_all(a, x, 2), 2);
	close_pair();
}

/* What was set on the TCP socket holds for the TLS socket. */
static void c_timeouts_kept(void)
{
	struct timeval tv;
	socklen_t len = sizeof tv;
	int fd[2], lowat;

	tcp_pair(fd);
	timeout(fd[0], SO_RCVTIMEO, 1500);
	timeout(fd[0], SO_SNDTIMEO, 2500);
	lowat = 7;
	MUST(setsockopt(fd[0], SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof lowat));
	nonblock(fd[0], 1);
	MUST(fcntl(fd[0], F_SETFD, FD_CLOEXEC));
	a = keyed(fd[0], 0);
	b = fd[1];
	EQ(getsockopt(a, SOL_SOCKET, SO_RCVTIMEO, &tv, &len), 0);
	EQ(tv.tv_sec * 1000 + tv.tv_usec / 1000, 1500);
	EQ(getsockopt(a, SOL_SOCKET, SO_SNDTIMEO, &tv, &len), 0);
	EQ(tv.tv_sec * 1000 + tv.tv_usec / 1000, 2500);
	len = sizeof lowat;
	EQ(getsockopt(a, SOL_SOCKET, SO_RCVLOWAT, &lowat, &len), 0);
	EQ(lowat, 7);
	EQ(fcntl(a, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	EQ(fcntl(a, F_GETFD), FD_CLOEXEC);
	close_pair();
}

static void c_so_sndtimeo(void)
{
	ssize_t n, sum = 0;

	open_pair();
	timeout(a, SO_SNDTIMEO, 20);
	fill(big, sizeof big, 2);
	for (int i = 0; i < 1000; i++) {
		n = write(a, big, sizeof big);
		if (n < 0)
			break;
		sum += n;
	}
	TRUE(n == -1 && errno == EAGAIN);
	/* The counts were exact, and the stream goes on. */
	timeout(a, SO_SNDTIMEO, 0);
	if (fork() == 0)
		_exit(write(a, "end", 3) == 3 ? 0 : 1);
	while (sum > 0) {
		n = read_all(b, got, sum < (ssize_t)sizeof got ? sum : (ssize_t)sizeof got);
		MUST(n);
		sum -= n;
		if (n == 0)
			break;
	}
	EQ(read_all(b, got, 3), 3);
	SAME(got, "end", 3);
	child_ok();
	close_pair();
}

static void c_so_rcvlowat(void)
{
	int n = 4;
	char x[8];

	open_pair();
	MUST(setsockopt(a, SOL_SOCKET, SO_RCVLOWAT, &n, sizeof n));
	if (fork() == 0) {
		/* TCP wakes nobody for less than that, whatever the reader has already. */
		int part = is_tcp ? 4 : 1;

		for (int i = 0; i < 4; i += part)
			if (write(b, "abcd" + i, part) != part)
				_exit(1);
		_exit(0);
	}
	EQ(read(a, x, sizeof x), 4); /* not less */
	SAME(x, "abcd", 4);
	child_ok();
	EQ(write(b, "xy", 2), 2);
	await_bytes(a, 2);
	EQ(recv(a, x, sizeof x, MSG_DONTWAIT), 2); /* who does not wait gets what there is */
	EQ(write(b, "xy", 2), 2);
	EQ(read(a, x, 2), 2); /* never more than was asked for */
	close_pair();
}

static volatile sig_atomic_t signals;
static int write_to;

static void on_signal(int s)
{
	(void)s;
	if (++signals == 3 && write_to >= 0)
		if (write(write_to, "late", 4) != 4)
			abort();
}

static void handle_signals(int flags)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = flags};

	signals = 0;
	MUST(sigaction(SIGUSR1, &sa, NULL));
}

/* A child that sends signals until it is killed. */
static pid_t signaller(void)
{
	pid_t p, parent = getpid();

	MUST(p = fork());
	if (p == 0) {
		struct timespec ms = {0, 1000000};

		for (int i = 0; i < 30000; i++) {
			kill(parent, SIGUSR1);
			nanosleep(&ms, NULL);
		}
		_exit(1);
	}
	return p;
}

static void c_signals(void)
{
	char x[8];
	pid_t p;

	open_pair();
	/* Without SA_RESTART a signal ends the call. */
	write_to = -1;
	handle_signals(0);
	p = signaller();
	ERR(read(a, x, 4), EINTR);
	ERR(recv(a, x, 4, 0), EINTR);
	int type;
	ERR(recv_type(a, x, 4, 0, &type, NULL), EINTR);
	TRUE(signals > 0);
	kill(p, SIGKILL);
	waitpid(p, NULL, 0);
	/* With it the call goes on. */
	write_to = b;
	handle_signals(SA_RESTART);
	p = signaller();
	EQ(read(a, x, 4), 4);
	SAME(x, "late", 4);
	/* But never one with a timeout. */
	write_to = -1;
	timeout(a, SO_RCVTIMEO, 30000);
	ERR(read(a, x, 4), EINTR);
	kill(p, SIGKILL);
	waitpid(p, NULL, 0);
	signal(SIGUSR1, SIG_IGN);
	close_pair();
}

/* A write that a signal ends tells how much was taken. */
static void c_write_interrupted(void)
{
	const size_t size = 256 << 20;
	char *m = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ssize_t n, left;
	pid_t p;

	open_pair();
	write_to = -1;
	handle_signals(0);
	p = signaller();
	n = write(a, m, size);
	TRUE(n >= 0 || errno == EINTR); /* which is before anything was taken */
	TRUE(n < (ssize_t)size);
	kill(p, SIGKILL);
	waitpid(p, NULL, 0);
	signal(SIGUSR1, SIG_IGN);
	if (n > 0) {
		if (fork() == 0)
			_exit(write(a, "x", 1) == 1 ? 0 : 1);
		for (left = n; left > 0;) {
			ssize_t k = read(b, got, left < (ssize_t)sizeof got ? left : (ssize_t)sizeof got);

			MUST(k);
			left -= k;
		}
		EQ(read_all(b, got, 1), 1);
		EQ(got[0], 'x');
		child_ok();
	}
	munmap(m, size);
	close_pair();
}

static void c_select(void)
{
	fd_set r, w;
	struct timeval zero = {0, 0};
	char x[4];

	open_pair();
	FD_ZERO(&r);
	FD_SET(a, &r);
	w = r;
	EQ(select(a + 1, &r, &w, NULL, &zero), 1);
	TRUE(!FD_ISSET(a, &r) && FD_ISSET(a, &w));
	EQ(write(b, "x", 1), 1);
	FD_SET(a, &r);
	EQ(select(a + 1, &r, NULL, NULL, NULL), 1);
	TRUE(FD_ISSET(a, &r));
	EQ(read(a, x, 4), 1);
	close_pair();
}

static void c_poll(void)
{
	char x[4];
	short e;

	open_pair();
	EQ(ready(a, POLLIN | POLLOUT), POLLOUT);
	EQ(write(b, "x", 1), 1);
	EQ(await(a, POLLIN), POLLIN);
	EQ(read(a, x, 4), 1);
	EQ(ready(a, POLLIN), 0);
	/* A full socket is not writable, and becomes so again. */
	nonblock(a, 1);
	ssize_t n, sum = 0;
	while ((n = write(a, big, sizeof big)) > 0)
		sum += n;
	TRUE(errno == EAGAIN);
	for (;;) { /* the queues behind it may still take some */
		struct pollfd p = {a, POLLOUT, 0};

		MUST(poll(&p, 1, 100));
		if (p.revents == 0)
			break;
		if ((n = write(a, big, sizeof big)) > 0)
			sum += n;
	}
	for (; sum > 0; sum -= n) {
		n = read(b, got, sum < (ssize_t)sizeof got ? sum : (ssize_t)sizeof got);
		MUST(n);
	}
	e = await(a, POLLOUT);
	EQ(e, POLLOUT);
	shutdown(b, SHUT_WR);
	e = await(a, POLLRDHUP);
	TRUE(e & POLLRDHUP);
	EQ(ready(a, POLLIN) & POLLIN, POLLIN);
	EQ(read(a, x, 4), 0);
	close_pair();
}

static int epoll_of(int fd, unsigned events)
{
	struct epoll_event e = {.events = events, .data.u64 = 77};
	int ep = epoll_create1(0);

	MUST(ep);
	MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
	return ep;
}

static unsigned events_now(int ep, int ms)
{
	struct epoll_event e = {0};
	int n = epoll_wait(ep, &e, 1, ms);

	MUST(n);
	if (n > 0)
		EQ(e.data.u64, 77);
	return n ? e.events : 0;
}

static void c_epoll_level(void)
{
	int ep;
	char x[4];

	open_pair();
	ep = epoll_of(a, EPOLLIN);
	EQ(events_now(ep, 0), 0);
	EQ(write(b, "ab", 2), 2);
	EQ(events_now(ep, -1), EPOLLIN);
	EQ(read(a, x, 1), 1);
	EQ(events_now(ep, 0), EPOLLIN);
	EQ(read(a, x, 1), 1);
	EQ(events_now(ep, 0), 0);
	close(ep);
	close_pair();
}

static void c_epoll_edge(void)
{
	int ep;
	char x[4];

	open_pair();
	ep = epoll_of(a, EPOLLIN | EPOLLET);
	EQ(write(b, "ab", 2), 2);
	EQ(events_now(ep, -1), EPOLLIN);
	EQ(events_now(ep, 0), 0); /* nothing new */
	EQ(write(b, "cd", 2), 2);
	EQ(events_now(ep, -1), EPOLLIN);
	EQ(read_all(a, x, 4), 4);
	EQ(events_now(ep, 0), 0);
	close(ep);
	close_pair();
}

static void c_epoll_oneshot(void)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 77};
	int ep;
	char x[4];

	open_pair();
	ep = epoll_of(a, EPOLLIN | EPOLLONESHOT);
	EQ(write(b, "ab", 2), 2);
	EQ(events_now(ep, -1), EPOLLIN);
	EQ(events_now(ep, 0), 0);
	MUST(epoll_ctl(ep, EPOLL_CTL_MOD, a, &e));
	EQ(events_now(ep, -1), EPOLLIN);
	EQ(read_all(a, x, 2), 2);
	close(ep);
	close_pair();
}

/* A registration of the TCP socket goes on with the TLS socket. */
static void c_epoll_moved(void)
{
	int fd[2], ep, level;
	char x[4];

	tcp_pair(fd);
	ep = epoll_of(fd[0], EPOLLIN | EPOLLET);
	level = epoll_of(fd[0], EPOLLIN);
	a = keyed(fd[0], 0);
	b = keyed(fd[1], 1);
	EQ(write(b, "ab", 2), 2);
	EQ(events_now(ep, -1), EPOLLIN);
	EQ(events_now(level, -1), EPOLLIN);
	EQ(read_all(a, x, 2), 2);
	EQ(events_now(level, 0), 0);
	MUST(epoll_ctl(ep, EPOLL_CTL_DEL, a, NULL));
	close(ep);
	close(level);
	close_pair();
}

static void c_nonblock(void)
{
	char x[4];

	open_pair();
	nonblock(a, 1);
	ERR(read(a, x, 4), EAGAIN);
	EQ(write(b, "x", 1), 1);
	await(a, POLLIN);
	EQ(read(a, x, 4), 1);
	nonblock(a, 0);
	if (fork() == 0)
		_exit(write(b, "y", 1) == 1 ? 0 : 1);
	EQ(read(a, x, 4), 1);
	child_ok();
	/* The flag is the file's: a duplicate has it, too. */
	int d = dup(a);
	nonblock(d, 1);
	ERR(read(a, x, 4), EAGAIN);
	close(d);
	close_pair();
}

static void c_dup(void)
{
	char x[8];
	int d, e;

	open_pair();
	MUST(d = dup(a));
	MUST(e = dup2(a, 100));
	EQ(write(d, "ab", 2), 2);
	EQ(write(e, "cd", 2), 2);
	EQ(read_all(b, x, 4), 4);
	SAME(x, "abcd", 4);
	close(a);
	EQ(write(b, "xyz", 3), 3);
	await_bytes(d, 3);
	EQ(read(e, x, 1), 1);
	EQ(read(d, x, 8), 2);
	if (tls) {
		EQ(send_type(d, ALERT, "\1\0", 2, 0), 2);
		struct tls12_crypto_info_aes_gcm_128 k;
		socklen_t len = sizeof k;
		EQ(getsockopt(e, SOL_TLS, TLS_TX, &k, &len), 0);
	}
	close(d);
	/* The last one is the end. */
	EQ(recv(b, x, 1, MSG_DONTWAIT) <= 0, 1);
	close(e);
	a = b;
	b = -1;
	close_pair();
}

static void c_fork(void)
{
	char x[8];

	open_pair();
	if (fork() == 0) {
		close(b);
		_exit(read_all(a, x, 3) == 3 && !memcmp(x, "abc", 3) && write(a, "child", 5) == 5 ? 0 : 1);
	}
	EQ(write(b, "abc", 3), 3);
	EQ(read_all(b, x, 5), 5);
	SAME(x, "child", 5);
	child_ok();
	EQ(write(a, "parent", 6), 6);
	EQ(read_all(b, x, 6), 6);
	EQ(write(b, "more", 4), 4);
	EQ(read_all(a, x, 4), 4);
	close_pair();
}

static void send_fd(int via, int fd)
{
	char c[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
	struct iovec v = {"x", 1};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
	struct cmsghdr *m = CMSG_FIRSTHDR(&h);

	memset(c, 0, sizeof c);
	m->cmsg_level = SOL_SOCKET;
	m->cmsg_type = SCM_RIGHTS;
	m->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(m), &fd, sizeof fd);
	MUST(sendmsg(via, &h, 0));
}

static int recv_fd(int via)
{
	char c[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))), x;
	struct iovec v = {&x, 1};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
	int fd;

	MUST(recvmsg(via, &h, 0));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&h)), sizeof fd);
	return fd;
}

static void c_scm_rights(void)
{
	int u[2];
	char x[8];

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
	if (fork() == 0) {
		a = recv_fd(u[1]);
		_exit(read_all(a, x, 3) == 3 && write(a, "taken", 5) == 5 && (!tls || send_type(a, ALERT, "\1\0", 2, 0) == 2) ? 0 : 1);
	}
	open_pair();
	send_fd(u[0], a);
	close(a);
	EQ(write(b, "abc", 3), 3);
	EQ(read_all(b, x, 5), 5);
	SAME(x, "taken", 5);
	child_ok();
	close(u[0]);
	close(u[1]);
	close(b);
}

static void c_shutdown_wr(void)
{
	char x[4];

	open_pair();
	signal(SIGPIPE, SIG_IGN);
	EQ(write(a, "abc", 3), 3);
	EQ(shutdown(a, SHUT_WR), 0);
	ERR(write(a, "x", 1), EPIPE);
	ERR(send(a, "x", 1, MSG_NOSIGNAL), EPIPE);
	if (tls)
		ERR(send_type(a, ALERT, "\1\0", 2, MSG_NOSIGNAL), EPIPE);
	EQ(read_all(b, x, 3), 3);
	await(b, POLLIN);
	if (aftls) { /* whose end is the clean one of TLS: close_notify comes first */
		int type;

		EQ(recv_type(b, x, 4, 0, &type, NULL), 2);
		EQ(type, ALERT);
	}
	EQ(read(b, x, 4), 0);
	/* The other direction goes on. */
	EQ(write(b, "def", 3), 3);
	EQ(read_all(a, x, 3), 3);
	SAME(x, "def", 3);
	close_pair();
}

static void c_shutdown_rd(void)
{
	char x[4];

	open_pair();
	EQ(shutdown(a, SHUT_RD), 0);
	EQ(read(a, x, 4), 0);
	EQ(write(a, "abc", 3), 3);
	EQ(read_all(b, x, 3), 3);
	close_pair();
}

static void c_shutdown_rdwr(void)
{
	char x[4];

	open_pair();
	signal(SIGPIPE, SIG_IGN);
	EQ(shutdown(a, SHUT_RDWR), 0);
	EQ(read(a, x, 4), 0);
	ERR(write(a, "x", 1), EPIPE);
	TRUE(await(a, POLLIN) & POLLIN);
	EQ(shutdown(a, SHUT_RDWR) == 0 || errno == ENOTCONN, 1);
	close_pair();
}

/* SIGPIPE comes with EPIPE, unless it is asked not to. */
static void c_sigpipe(void)
{
	struct iovec v = {"x", 1};
	struct mmsghdr h = {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}};
	int st, f = memfd_create("posix", 0);

	EQ(write(f, "x", 1), 1);
	for (int i = 0; i < 5; i++) {
		open_pair();
		shutdown(a, SHUT_WR);
		if (fork() == 0) {
			off_t off = 0;

			signal(SIGPIPE, SIG_DFL);
			switch (i) {
			case 0:
				_exit(send(a, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE ? 0 : 1);
			case 1:
				_exit(write(a, "x", 1) == 1);
			case 2:
				_exit(sendmsg(a, &h.msg_hdr, 0) == 1);
			case 3:
				_exit(sendmmsg(a, &h, 1, 0) == 1);
			default:
				_exit(sendfile(a, f, &off, 1) == 1);
			}
		}
		MUST(wait(&st));
		if (i == 0)
			EQ(st, 0);
		else
			TRUE(WIFSIGNALED(st) && WTERMSIG(st) == SIGPIPE);
		close_pair();
	}
	close(f);
}

/* A socket that was connected stays so: it cannot listen or get another peer. */
static void c_reuse(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr none = {.sa_family = AF_UNSPEC};

	open_pair();
	shutdown(a, SHUT_RDWR);
	if (is_tcp || strict) {
		ERR(listen(a, 10), EINVAL);
		ERR(connect(a, (struct sockaddr *)&in, sizeof in), EISCONN);
	}
	if (strict) {
		ERR(connect(a, &none, sizeof none), EOPNOTSUPP);
		ERR(connect(a, (void *)8, sizeof none), EFAULT);
	}
	close_pair();
}

/* What was written before the close arrives. */
static void c_close_unsent(void)
{
	open_pair();
	fill(big, 150000, 4);
	EQ(write_all(a, big, 150000), 150000);
	EQ(close(a), 0);
	EQ(read_all(b, got, 150000), 150000);
	SAME(big, got, 150000);
	a = -1;
	close_pair();
}

/* Something unread is at the close: the peer learns of the end. */
static void c_close_unread(void)
{
	char x[4];

	open_pair();
	EQ(write(b, "abc", 3), 3);
	await_bytes(a, 3);
	EQ(close(a), 0);
	a = -1;
	await(b, POLLIN);
	signal(SIGPIPE, SIG_IGN);
	int type;
	ssize_t n = aftls ? recv_type(b, x, 4, 0, &type, NULL) : read(b, x, 4);
	TRUE(n == 0 || n == -1 && errno == ECONNRESET || aftls && n == 2);
	close_pair();
}

static volatile int closed;

static void *close_it(void *p)
{
	(void)p;
	close(a);
	closed = 1;
	if (write(b, "x", 1) < 0 && errno != EPIPE && errno != ECONNRESET)
		abort();
	return NULL;
}

/* Another thread closes the descriptor while a call waits: it ends, with what came
 * or with EBADF. */
static void c_close_while_reading(void)
{
	pthread_t t;
	char x[4];
	ssize_t n;

	open_pair();
	signal(SIGPIPE, SIG_IGN);
	closed = 0;
	MUST(-pthread_create(&t, NULL, close_it, NULL));
	n = read(a, x, 4);
	TRUE(n == 1 || n == 0 || n == -1 && (errno == EBADF || errno == ECONNRESET));
	pthread_join(t, NULL);
	close(b);
}

static void c_names(void)
{
	struct sockaddr_storage s;
	socklen_t len = sizeof s;

	open_pair();
	EQ(getpeername(a, (struct sockaddr *)&s, &len), 0);
	if (is_unix) {
		EQ(s.ss_family, AF_UNIX);
	} else {
		struct sockaddr_in *in = (void *)&s, other;

		EQ(s.ss_family, AF_INET);
		EQ(len, sizeof *in);
		EQ(ntohl(in->sin_addr.s_addr), INADDR_LOOPBACK);
		other = *in;
		EQ(getsockname(b, (struct sockaddr *)&s, &len), 0);
		EQ(in->sin_port, other.sin_port);
		len = 4; /* a short place gets a part, and the length is the whole */
		EQ(getsockname(a, (struct sockaddr *)&s, &len), 0);
		EQ(len, sizeof *in);
		len = -1;
		ERR(getsockname(a, (struct sockaddr *)&s, &len), EINVAL);
		ERR(getsockname(a, (struct sockaddr *)&s, (void *)8), EFAULT);
	}
	close_pair();
}

static int int_option(int fd, int level, int name)
{
	int v = -1;
	socklen_t len = sizeof v;

	if (getsockopt(fd, level, name, &v, &len) < 0)
		return -errno;
	return v;
}

static void c_options(void)
{
	int one = 1;
	struct tcp_info info;
	socklen_t len = sizeof info;

	open_pair();
	EQ(int_option(a, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
	EQ(int_option(a, SOL_SOCKET, SO_ERROR), 0);
	EQ(int_option(a, SOL_SOCKET, SO_DOMAIN), is_tcp || strict ? AF_INET : AF_UNIX);
	EQ(int_option(a, SOL_SOCKET, SO_PROTOCOL), is_tcp || strict ? IPPROTO_TCP : 0);
	if (!is_unix) {
		EQ(setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), 0);
		EQ(int_option(a, IPPROTO_TCP, TCP_NODELAY), 1);
		EQ(getsockopt(a, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
		EQ(info.tcpi_state, TCP_ESTABLISHED);
		EQ(setsockopt(a, IPPROTO_TCP, TCP_CORK, &one, sizeof one), 0);
		EQ(setsockopt(a, IPPROTO_IP, 1 /* IP_TOS */, &one, sizeof one), 0);
		EQ(setsockopt(a, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one), 0);
	}
	struct stat st;
	EQ(fstat(a, &st), 0);
	TRUE(S_ISSOCK(st.st_mode));
	ERR(lseek(a, 0, SEEK_CUR), ESPIPE);
	close_pair();
}

static const struct cell cells[] = {
	{"so_rcvtimeo", c_so_rcvtimeo, K_ALL},
	{"so_sndtimeo", c_so_sndtimeo, K_ALL},
	{"timeouts_kept", c_timeouts_kept, K_ULP},
	{"so_rcvlowat", c_so_rcvlowat, K_ALL},
	{"signals", c_signals, K_ALL},
	{"write_interrupted", c_write_interrupted, K_ALL},
	{"select", c_select, K_ALL},
	{"poll", c_poll, K_ALL},
	{"epoll_level", c_epoll_level, K_ALL},
	{"epoll_edge", c_epoll_edge, K_ALL},
	{"epoll_oneshot", c_epoll_oneshot, K_ALL},
	{"epoll_moved", c_epoll_moved, K_ULP},
	{"nonblock", c_nonblock, K_ALL},
	{"dup", c_dup, K_ALL},
	{"fork", c_fork, K_ALL},
	{"scm_rights", c_scm_rights, K_ALL},
	{"shutdown_wr", c_shutdown_wr, K_ALL},
	{"shutdown_rd", c_shutdown_rd, K_ALL},
	{"shutdown_rdwr", c_shutdown_rdwr, K_ALL},
	{"sigpipe", c_sigpipe, K_ALL},
	{"reuse", c_reuse, K_ALL},
	{"close_unsent", c_close_unsent, K_ALL},
	{"close_unread", c_close_unread, K_ALL},
	{"close_while_reading", c_close_while_reading, K_ALL},
	{"names", c_names, K_ALL},
	{"options", c_options, K_ALL},
};
MAIN(cells)
