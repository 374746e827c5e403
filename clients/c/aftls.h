/*
 * aftls: TLS connections as sockets, for programs in C. Linux.
 *
 * Two ways lead to a descriptor that is read and written with plaintext:
 *
 *  - The hand-off daemon (docs/handoff.md): the program does the handshake, and
 *    gives keys and TCP socket, or UDP socket of DTLS, away. The functions below do that; they are in
 *    aftls.c and need nothing but libc.
 *  - `aftls run`: the program makes sockets of the family AF_TLS, or uses those of
 *    Linux. It needs the constants at the end of this file, and no function.
 *
 * Nothing here has global state, nothing allocates, and no buffer of the library
 * ever holds keys: they go from the program's memory to the socket. To overwrite
 * its own copies is the program's business (explicit_bzero). Calls that a signal
 * interrupts go on by themselves.
 */
#ifndef AFTLS_H
#define AFTLS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <linux/tls.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The ciphers that are served; older <linux/tls.h> know the first one only. */
#ifndef TLS_CIPHER_AES_GCM_128
#define TLS_CIPHER_AES_GCM_128 51
#endif
#ifndef TLS_CIPHER_AES_GCM_256
#define TLS_CIPHER_AES_GCM_256 52
#endif
#ifndef TLS_CIPHER_CHACHA20_POLY1305
#define TLS_CIPHER_CHACHA20_POLY1305 54
#endif

/* The direction of keys. */
#ifndef TLS_TX
#define TLS_TX 1
#endif
#ifndef TLS_RX
#define TLS_RX 2
#endif

/*
 * Versions of DTLS, for struct tls12_crypto_info_* (1.2) and aftls_traffic_secret
 * (1.3), and what their rec_seq is: an epoch, 1 after the first handshake of DTLS 1.2
 * and 3 after that of 1.3, and the number of the next record, big-endian. Of AES-GCM
 * in DTLS 1.2 iv is not looked at: the explicit nonce is rec_seq.
 */
#define AFTLS_DTLS_1_2 0xfefd
#define AFTLS_DTLS_1_3 0xfefc
#define AFTLS_DTLS_NUMBER(epoch, number) ((uint64_t)(epoch) << 48 | (number))

/*
 * The traffic secret of one direction of TLS 1.3 or DTLS 1.3: client_ or
 * server_application_traffic_secret_N, which key logs call
 * CLIENT_TRAFFIC_SECRET_0 and SERVER_TRAFFIC_SECRET_0. See aftls_set_secret.
 */
struct aftls_traffic_secret {
	uint16_t version;	/* 0x0304; AFTLS_DTLS_1_3 */
	uint16_t cipher_type;	/* TLS_CIPHER_* */
	uint16_t secret_len;	/* 32, or 48 with AES-256-GCM */
	uint16_t reserved;
	uint8_t rec_seq[8];	/* the number of the next record, big-endian */
	uint8_t secret[48];
};

/* An errno and the reason in words, which ends with a 0 byte. */
struct aftls_error {
	uint32_t error;
	char text[256];
};

/* ---- The hand-off protocol, version 1: what goes over the sockets. ---- */

#define AFTLS_MAGIC 0x534c5461u
#define AFTLS_VERSION 1

struct aftls_request {
	uint32_t magic;
	uint16_t version;
	uint16_t flags;
	uint16_t tx_form, tx_len;
	uint16_t rx_form, rx_len;
	uint32_t unread_len;
	uint32_t reserved;
	/* tx_len bytes, rx_len bytes, unread_len bytes */
};

struct aftls_reply {
	uint32_t magic;
	uint16_t version;
	uint16_t reserved;
	uint32_t error;
	/* text, without a 0 byte at its end */
};

/* Flags of a request. */
#define AFTLS_CONTROL 1	/* a control descriptor comes along */
#define AFTLS_KERNEL 2	/* behave as a TLS socket of Linux; needs AFTLS_CONTROL */
#define AFTLS_CLIENT 4	/* the program was the client of the handshake */
#define AFTLS_RECORDS 8	/* each message of the data descriptor is one record; needs AFTLS_CONTROL */

/* Forms of keys. */
#define AFTLS_CRYPTO_INFO 1	/* struct tls12_crypto_info_* of <linux/tls.h> */
#define AFTLS_TRAFFIC_SECRET 2	/* struct aftls_traffic_secret; recommended */

/* The longest unread ciphertext, and the longest payload of a record. */
#define AFTLS_MAX_UNREAD 131072
#define AFTLS_MAX_RECORD 16384

/* What every message on a control descriptor begins with. */
struct aftls_message {
	uint8_t kind;
	uint8_t type;
	uint16_t flags;
	uint32_t length;	/* of what follows */
	uint64_t offset;
};

/* Kinds of messages. */
#define AFTLS_RECORD 1
#define AFTLS_KEYS 2
#define AFTLS_INFO 3
#define AFTLS_OFF 4
#define AFTLS_REKEY 5
#define AFTLS_ANSWER 6
#define AFTLS_END 7
#define AFTLS_WARNING 8 /* of datagrams: what the association goes on after */

/* The flag of a message: the next one continues it. */
#define AFTLS_MORE 1

struct aftls_direction {
	uint16_t version, suite;	/* suite: the IANA number */
	uint32_t reserved;
	uint64_t seq;			/* the number of the next record */
	uint64_t records, bytes;
	uint64_t epoch;			/* how often it was rekeyed; the epoch of DTLS */
};

struct aftls_info {
	struct aftls_direction tx, rx;
};

/* What was dropped of datagrams. It follows struct aftls_info. */
struct aftls_drops {
	uint64_t bad;		/* records that were forged, damaged or of something else */
	uint64_t replayed;	/* records that came again, or too late to tell */
	uint64_t lost;		/* messages that the program had no room for */
	uint64_t unsent;	/* messages that the path or the socket did not take */
};

/* ---- The functions. ---- */

/*
 * aftls_connect connects to the daemon's socket: with NULL the one that `aftls
 * handd` has without --socket, aftls.sock in $XDG_RUNTIME_DIR or else in /run. The
 * descriptor is the caller's, close-on-exec, and good for any number of hand-offs,
 * one at a time: two threads that hand off at once need two. -1 and errno is what
 * socket(2) and connect(2) give; ENAMETOOLONG is a path that no address holds.
 */
int aftls_connect(const char *path);

/*
 * aftls_set_secret fills s. secret is the traffic secret, of the length that the
 * cipher has: 32 bytes, or 48 with AES-256-GCM; number is that of the next record
 * under it, 0 for a key that nothing was sent with. -1 with EINVAL is another
 * cipher or another length. For DTLS 1.3 number is an AFTLS_DTLS_NUMBER, and version
 * is to be set to AFTLS_DTLS_1_3 behind the call.
 */
int aftls_set_secret(struct aftls_traffic_secret *s, uint16_t cipher_type,
		     const void *secret, size_t length, uint64_t number);

/* What the program gives away. All of it stays the caller's. */
struct aftls_handoff {
	int carrier;		/* a connected TCP socket; UDP with keys of DTLS */
	uint16_t flags;
	uint16_t form;		/* of both tx and rx */
	uint16_t length;	/* of either, in bytes */
	const void *tx, *rx;	/* keys to send and to receive with */
	const void *unread;	/* ciphertext that was read already, or NULL */
	size_t unread_length;
};

/* What aftls_hand_off fails with. */
#define AFTLS_REFUSED (-1)
#define AFTLS_LOST (-2)

/*
 * aftls_hand_off gives a connection to the daemon and returns the data descriptor.
 * With AFTLS_CONTROL *control is the control descriptor, otherwise control may be
 * NULL. Both are the caller's, and close-on-exec. The caller still has its carrier
 * and must not read or write it; it may close it at once, but for one it wants
 * back with aftls_ask_off.
 *
 * AFTLS_REFUSED: nothing was sent, and the program may go on with the carrier.
 * errno is the daemon's (docs/handoff.md has the table), or that of sendmsg(2);
 * EINVAL is also said of AFTLS_CONTROL without a place for the descriptor.
 *
 * AFTLS_LOST: the daemon may have used the keys, and nobody must again: close the
 * carrier. errno is ECONNRESET when the daemon went away without an answer, EBADMSG
 * when the answer is not one, EMFILE when this process could not take its
 * descriptors, or that of recvmsg(2), such as EAGAIN where SO_RCVTIMEO is set.
 * That connection to the daemon is of no more use.
 *
 * why, if not NULL, is given errno and the reason in words.
 */
int aftls_hand_off(int daemon, const struct aftls_handoff *h, int *control,
		   struct aftls_error *why);

/*
 * The following send one message each on a control descriptor. Each is answered by
 * one message, in the order of the sending, which aftls_receive brings: AFTLS_ANSWER
 * but where another kind is named. 0 is success of the sending only. -1 and errno
 * is that of sendmsg(2), with EPIPE or ECONNRESET when the association is over:
 * aftls_receive may still have its AFTLS_END. One that sends many without receiving
 * waits for itself in the end. Threads may call all of them at once.
 */

/*
 * aftls_send_record sends a control record of a content type, up to 16384 bytes,
 * behind all data that was written before. Data that is to follow it has to be
 * written behind the answer. EMSGSIZE: it is longer.
 */
int aftls_send_record(int control, uint8_t type, const void *payload, size_t length);

/*
 * aftls_send_keys gives the keys behind a KeyUpdate, to send (TLS_TX) or to receive
 * (TLS_RX) with: a struct tls12_crypto_info_* of the version and cipher that the
 * association has. Between a KeyUpdate that it sends and the answer to its keys a
 * program writes no data.
 */
int aftls_send_keys(int control, int direction, const void *crypto_info, size_t length);

/* aftls_ask_info asks for the state. It is answered by AFTLS_INFO. */
int aftls_ask_info(int control);

/*
 * aftls_ask_rekey asks for a KeyUpdate in both directions. With traffic secrets
 * only.
 */
int aftls_ask_rekey(int control);

/*
 * aftls_ask_off asks for the association back. It is answered by AFTLS_OFF, in as
 * many messages as it takes: all but the last have AFTLS_MORE. Their bodies, put
 * together, are a uint32_t length, so many bytes of state, which are keys, and then
 * data that came in and is behind everything in the data descriptor.
 */
int aftls_ask_off(int control);

/* A message of a control descriptor, as it comes. */
struct aftls_event {
	struct aftls_message head;
	union {
		uint8_t bytes[AFTLS_MAX_RECORD];
		struct aftls_info info;		/* of AFTLS_INFO */
		struct {
			struct aftls_info info;
			struct aftls_drops drops;
		} datagrams;			/* of AFTLS_INFO, of datagrams */
		struct aftls_error error;	/* of AFTLS_ANSWER, AFTLS_END and AFTLS_WARNING */
	} body;
};

/*
 * aftls_receive receives the next message; head.length is the length of its body.
 * It returns 1, or 0 behind the last message. That is AFTLS_END, or the end of
 * AFTLS_OFF: 0 without either before it means that the daemon died. -1 and errno
 * is that of recvmsg(2), or EBADMSG for what is no message of this protocol.
 * A thread may receive while others send; parts of AFTLS_OFF are for one thread.
 */
int aftls_receive(int control, struct aftls_event *event);

/* ---- For programs under `aftls run` (docs/run.md). ---- */

/* Far outside AF_MAX: no family of Linux will ever be that. */
#define AF_TLS 0x544c

/* What bind(2) of a socket of that family takes: the carrier, UDP for SOCK_DGRAM. */
struct sockaddr_tls {
	sa_family_t family;	/* AF_TLS */
	uint16_t reserved;	/* 0 */
	int32_t fd;
};

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

/*
 * Options at level SOL_TLS, besides TLS_TX and TLS_RX. The numbers are far from
 * those that Linux has.
 */
#define AFTLS_TX_SECRET 0x4001	 /* set: struct aftls_traffic_secret */
#define AFTLS_RX_SECRET 0x4002	 /* set: struct aftls_traffic_secret */
#define AFTLS_POLICY 0x4003	 /* set, before bind: int, AFTLS_OURS or AFTLS_THEIRS */
#define AFTLS_NEXT_RECORD 0x4004 /* set, get: struct aftls_next_record */
#define AFTLS_CONTROL_FD 0x4005	 /* get: int, a control descriptor */
#define AFTLS_ERROR 0x4006	 /* get: why the association ended, see below */
#define AFTLS_IS_CLIENT 0x4007	 /* set, before bind: int, 1: the program was the client */
#define AFTLS_MAX_MESSAGE 0x4008 /* get: int, the longest message that the path takes now; SOCK_DGRAM */

/*
 * AFTLS_ERROR gives a struct aftls_error whose text ends where the length says,
 * without a 0 byte: fill the structure with zeros and ask for one byte less.
 */

/* Who deals with control records: our side, or the program, which gets them. */
#define AFTLS_OURS 0
#define AFTLS_THEIRS 1

/*
 * Set, it makes one record of the type of the next length bytes that are written.
 * Get tells the type and the length of the control record that reading stopped at;
 * its bytes are then read with read(2).
 */
struct aftls_next_record {
	uint8_t type;
	uint8_t reserved;
	uint16_t length;
};

#ifdef __cplusplus
}
#endif

#endif
