/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_LINES_H
#define FL_LINES_H

#include "types.h"

/* Tables that are searched by the cache line. */

/*
 * Flows nobody has confirmed yet: the entry of the replies, with its key. Without
 * FLOW_SINGLE it tells the client's direction, too. One whose client was silent for
 * longer than its life is not there any longer.
 */
#define HANDSHAKE_LIFE (1u << 15) /* jiffies: half a minute to five, by HZ */
#define DATAGRAM_LIFE (1u << 17)  /* two minutes (RFC 4787) to twenty, of UDP */
#define HANDSHAKES_PER_LINE 4
struct handshake {
	struct flow_key key;
	struct flow flow;
};
struct handshake_line {
	struct bpf_spin_lock lock;
	__u32 pad[7];
	__u32 tag[HANDSHAKES_PER_LINE];	  /* of the hash of the client's end; 0: free */
	__u32 since[HANDSHAKES_PER_LINE]; /* jiffies */
	struct handshake entry[HANDSHAKES_PER_LINE];
};
_Static_assert(sizeof(struct handshake_line) == 480, "handshake_line has no hole");

/* Clients of services (client.h): affinity, rate limit. */
#define CLIENTS_PER_LINE 8
struct client {
	__u64 seen;   /* ns: last new connection, for affinity */
	__u64 filled; /* ns: when tokens were last added */
	__u32 backend;
	__u32 tokens; /* thousandths of a connection */
};
struct client_line {
	__u32 tag[CLIENTS_PER_LINE];  /* of the keyed hash of client and service; 0: free */
	__u32 used[CLIENTS_PER_LINE]; /* ms, about; modulo 2^32 */
	struct client entry[CLIENTS_PER_LINE];
};
_Static_assert(sizeof(struct client_line) == 256, "client_line is four cache lines");

/* What front.h says of a service. */
#define FRONT_USED (1u << 16)
struct front {
	struct addr vip;
	__u64 what;  /* port, FRONT_USED, and the id in the upper half; 0: free */
	__u64 table; /* base, and length in the upper half */
};
#define FRONTS_PER_LINE 2
struct front_line {
	struct front entry[FRONTS_PER_LINE];
};
_Static_assert(sizeof(struct front_line) == 64, "front_line is a cache line");

/* What recent.h says of a flow; data 0: nothing. */
#define RECENT_PER_LINE 4
struct recent {
	__u64 check;
	__u64 data;
};
struct recent_line {
	struct recent entry[RECENT_PER_LINE];
};
_Static_assert(sizeof(struct recent_line) == 64, "recent_line is a cache line");

/* The address and port under which clients reach a service, or one of several. */
struct vip {
	struct addr addr;
	__be16 port;
	__u8 pad[6];
};
_Static_assert(sizeof(struct vip) == 24, "vip has no hole");

#endif
