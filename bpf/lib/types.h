/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_TYPES_H
#define FL_TYPES_H

/*
 * Structures shared with Go (pkg/bpf checks sizes and offsets against BTF).
 * Every byte is named: a hole in a map key loads fine and never matches.
 */

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

/* An address is 16 bytes; IPv4 is mapped (::ffff:a.b.c.d), so there is one path. */
struct addr {
	__be32 w[4];
};

/* One served (address, port, protocol); port 0 and proto 0: the address is a VIP. */
struct service_key {
	struct addr vip;
	__be16 port;
	__u8 proto;
	__u8 pad;
};
_Static_assert(sizeof(struct service_key) == 20, "service_key has no hole");

/* Tables a service remembers beside its present one, while flows follow them. */
#define OLD_TABLES 3
struct table {
	__u32 base;
	__u32 len;
};

/* The consistent-hash table of a service is slots base .. base+len of fl_slots. */
struct service {
	__u32 id; /* index into fl_svc_stats */
	__u32 base;
	__u32 len; /* 0: no backend */
	__u32 flags;
	__u32 affinity; /* seconds a client stays with its backend; 0: off */
	__u32 rate;	/* new connections a second and client; 0: any number */
	__u32 burst;
	__u32 olds;		      /* how many of old[] are in use */
	struct table old[OLD_TABLES]; /* newest first; not with SVC_FLOWS */
};
_Static_assert(sizeof(struct service) == 56, "service has no hole");

/* Service flags. */
enum {
	SVC_ALLOW = 1 << 0, /* only sources in fl_allow */
	SVC_FLOWS = 1 << 1, /* a packet goes where its flow entry says, not where the table does */
	SVC_NAT = 1 << 2,   /* backends see an address and port of fl_sources, not the client's; with SVC_FLOWS */
	SVC_LEAST = 1 << 3, /* of some backends the table names, the one with the fewest flows; with SVC_FLOWS */
	SVC_WAKES = 1 << 4, /* may sleep: sockets of this host may hold connections to it (sleep.h) */
	SVC_SLEEP = 1 << 5, /* sleeps: they take the new ones; with SVC_WAKES */
};

/* A longest-prefix match of sources within one service. */
struct allow_key {
	__u32 prefixlen; /* of what follows: 32 for the id, then the address' */
	__u32 service;
	struct addr addr;
};
_Static_assert(sizeof(struct allow_key) == 24, "allow_key has no hole");

/* The fragments of one datagram, found by its first one (RFC 791, RFC 8200). */
struct frag_key {
	struct addr src;
	struct addr dst;
	__be32 id;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct frag_key) == 40, "frag_key has no hole");

/* How a translated packet leaves; decided before a byte of it is changed. */
enum exit {
	EXIT_NONE,     /* no way out */
	EXIT_TO_TC,    /* XDP cannot: let the TC program have it, unchanged */
	EXIT_REDIRECT, /* MACs are known */
	EXIT_PEER,     /* into the namespace at the other end of a veth */
	EXIT_NEIGHBOR, /* the kernel resolves the MAC */
	EXIT_TOO_BIG,  /* the packet does not fit; scratch: mtu */
};

struct hop {
	enum exit how;
	__u32 ifindex;
	__u8 dmac[6];
	__u8 smac[6];
};

struct frag {
	struct addr src; /* what the addresses become */
	struct addr dst;
	__u64 seen; /* jiffies */
	struct hop hop;
	__u8 tc;     /* remembered by the TC program */
	__u8 reason; /* what the first one was counted as */
	__u8 pad[2];
};
_Static_assert(sizeof(struct frag) == 64, "frag has no hole");

/*
 * Slots lie in cache lines: an array map rounds every value up to 8 bytes, and
 * a map of single numbers would be half air.
 */
#define SLOTS_PER_LINE 16
struct slot_line {
	__u32 backend[SLOTS_PER_LINE];
};

/* Backend flags. */
enum {
	BE_USED = 1 << 0, /* the entry is in use */
	BE_OPEN = 1 << 1, /* takes new connections */
	BE_DOWN = 1 << 2, /* unhealthy: UDP flows leave it at once */
	BE_MAC = 1 << 3,  /* dmac and smac are known */
	BE_XDP = 1 << 4,  /* XDP may redirect to ifindex */
	BE_PEER = 1 << 5, /* ifindex is a veth into another namespace */
};

/* One (replica address, container port, protocol): a cache line. */
struct backend {
	struct addr addr;
	__be16 port;
	__u8 proto;
	__u8 flags;
	__u32 ifindex; /* 0: no route */
	__u8 dmac[6];
	__u8 smac[6];
	__u32 service;
	__u32 weight;  /* for SVC_LEAST; the table has its own idea of it */
	__u32 release; /* the agent's own: when the drain ends, in seconds of CLOCK_MONOTONIC; 0: none */
	__u32 pad[4];
};
_Static_assert(sizeof(struct backend) == 64, "backend is a cache line");

/* The five-tuple as seen on the wire, before translation. */
struct flow_key {
	struct addr src;
	struct addr dst;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct flow_key) == 40, "flow_key has no hole");

/* Flow flags and states. */
enum {
	FLOW_REPLY = 1 << 0,  /* this entry translates replies */
	FLOW_SINGLE = 1 << 1, /* the client's direction has no entry: the table knows */
	FLOW_NAT = 1 << 2,    /* holds a port of fl_sources */
	FLOW_LEAST = 1 << 3,  /* is counted in fl_load */
};
#define FLOW_HOLDS (FLOW_NAT | FLOW_LEAST)
enum {
	FLOW_FIN_CLIENT = 1 << 0,
	FLOW_FIN_BACKEND = 1 << 1,
	FLOW_RST = 1 << 2,
	FLOW_ANSWERED = 1 << 3,	   /* by the backend: TCP with its SYN-ACK, and isn is known */
	FLOW_UNREACHABLE = 1 << 4, /* an ICMP error said so of the backend, before it answered; in the replies' entry */
	FLOW_RETURNED = 1 << 5,	   /* what it held is free for others */
};

/*
 * What packets of one direction become. Both directions have an entry; the
 * key of the other one is this translation, reversed.
 */
struct flow {
	struct addr src;
	struct addr dst;
	__be16 sport;
	__be16 dport;
	__u32 backend;
	__u32 service;
	__u32 ifindex; /* where the client's packets arrive */
	__u8 flags;
	__u8 state;
	__u16 source; /* with FLOW_NAT: index into fl_sources */
	__u32 hash;   /* of the client's direction: its slot in any table */
	__u32 isn;    /* of the backend, in the replies' entry: what the handshake's last ACK proves */
	__u32 seen;   /* jiffies of the last packet, to about a second; modulo 2^32 */
};
_Static_assert(sizeof(struct flow) == 64, "flow is a cache line");

/* What the agent knows of an interface, at index (ifindex & IFACE_MASK). */
#define IFACE_MASK 0xffff
enum {
	IFACE_XDP_XMIT = 1 << 0, /* takes frames from XDP_REDIRECT */
	IFACE_PEER = 1 << 1,	 /* bpf_redirect_peer reaches the other end */
};
struct iface {
	__u32 ifindex; /* 0: unused */
	__u8 slot;     /* of the counters; 0: other */
	__u8 flags;
	__u16 mtu; /* of the link; 0: not known */
};

struct svc_stats {
	__u64 connections;
	__u64 packets_in;
	__u64 bytes_in;
	__u64 packets_out;
	__u64 bytes_out;
	__u64 reopened; /* flows made by a TCP packet in mid-connection: their entry was lost */
};

/* Two clocks read at one moment: what a flow's time means in nanoseconds. */
struct clock {
	__u64 jiffies;
	__u64 ktime;
};

/* The VIP a local socket meant, by the backend it was given (connect hooks). */
struct sock_key {
	__u64 cookie;
	struct addr backend;
	__be16 port;
	__u8 proto;
	__u8 pad[5];
};
_Static_assert(sizeof(struct sock_key) == 32, "sock_key has no hole");

struct sock_vip {
	struct addr vip;
	__be16 port;
	__u8 pad[2];
};
_Static_assert(sizeof(struct sock_vip) == 20, "sock_vip has no hole");

/* What a flow's packets become: the part of struct flow that rewriting needs. */
struct xlate {
	struct addr src;
	struct addr dst;
	__be16 sport;
	__be16 dport;
};

/* A parsed packet on its way to the functions of slow.h. */
struct slow_pkt {
	__u32 bytes;
	__u32 l3;
	__u32 l4;
	__u32 l3_len;
	__u32 ifindex;
	__u32 slot;
	__u8 v6;
	__u8 vlans;
	__u8 ttl;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 why; /* enum reason */
	__u8 fragment;
	__u8 first;
};

/*
 * What the 512 bytes of stack do not hold, and the arguments of the functions
 * that the verifier checks apart from their callers (before Linux 5.12 those
 * take no pointers). One per CPU.
 */
struct scratch {
	struct flow_key key;
	struct flow flow;
	struct flow_key twin; /* the other direction */
	struct flow reply;
	struct flow_key other; /* of flow_close and flow_mark */
	struct service service;
	__u32 l3; /* of pkt_forget */
	__u32 l4;
	__u32 vlans;
	__u32 icmp_type;
	__u32 id;
	__u32 owner;	   /* of direct_owner: index of the backend */
	__u32 source;	   /* of source_take: index into fl_sources and port */
	__u32 vacant;	   /* of direct_owner: nobody has an entry of the replies' tuple */
	__u32 in_line;	   /* of flow_claim: the flow is in a line, both directions of it */
	__u32 client_line; /* of client_find: the client is in this line */
	struct frag_key frag_key;
	struct frag frag;
	__u32 traits;	  /* of pkt_forget */
	__u32 client_at;  /* of client_find: where in its line */
	__u64 client_now; /* ns, at that */
	struct bpf_fib_lookup fib;
	struct flow_key pkt_key;	/* of the packet at hand */
	struct service_key service_key; /* of service_find */
	struct slow_pkt slow;
	struct flow_key quote_key;
	struct addr icmp_src;
	struct xlate xlate;	       /* what the packet at hand becomes */
	struct hop hop;		       /* and how it leaves */
	__u32 mtu;		       /* of the link it does not fit */
	struct bpf_sock_tuple tuple;   /* of is_held */
	__u32 handshake_now;	       /* jiffies, for handshake_at */
	struct flow_key handshake_key; /* of handshake_find and the like */
	struct service_key handshake_service;
	struct flow handshake;	    /* what it found */
	struct flow_key recent_key; /* of recent_drop */
	__u32 pad;
};

/*
 * How a packet left the program. Names are metric labels (without REASON_, in
 * lower case); the verdict of each is in pkg/bpf/reason.go, tested against this.
 */
enum reason {
	REASON_NOT_OURS,       /* pass */
	REASON_NOT_IP,	       /* pass */
	REASON_MALFORMED,      /* pass: no VIP could be read in it */
	REASON_HANDED_TO_TC,   /* pass: XDP leaves it to the TC program */
	REASON_FORWARDED,      /* forward: client to backend */
	REASON_REPLIED,	       /* forward: backend to client */
	REASON_ICMP_FORWARDED, /* forward: ICMP error, inner header translated */
	REASON_ECHO_ANSWERED,  /* answer */
	REASON_PORT_REFUSED,   /* answer: VIP, unserved port */
	REASON_NO_BACKEND,     /* answer: served port, nobody behind it */
	REASON_TTL_EXCEEDED,   /* answer */
	REASON_BAD_PACKET,     /* drop: malformed, addressed to a VIP */
	REASON_FRAGMENT,       /* drop: fragment to a VIP whose first one was not seen before */
	REASON_PROTOCOL,       /* drop: not TCP, UDP or ICMP, to a VIP */
	REASON_NO_ROUTE,       /* drop */
	REASON_COLLISION,      /* drop: no free reverse tuple */
	REASON_TABLE_FULL,     /* drop: a map refused an entry */
	REASON_UNANSWERABLE,   /* drop: an answer that must not or cannot be sent */
	REASON_REWRITE,	       /* drop: a helper refused to change the packet */
	REASON_MARTIAN,	       /* drop: a source that cannot be answered, to a VIP */
	REASON_NOT_ALLOWED,    /* drop: the source is not in the service's allow list */
	REASON_RATE_LIMITED,   /* drop: the client opens connections too fast */
	REASON_TOO_BIG,	       /* answer: does not fit the link it must leave by */
	REASON_NO_SOURCE_PORT, /* drop: mode full-nat, and every port of every source is in use */
	REASON_HELD,	       /* pass: to a service that sleeps, or slept when the connection was opened */
	REASON_SYN_AGAIN,      /* drop: sent again, while a replica takes the connection though its service falls asleep */
	REASON_MAX,
};

#define STAT_REASONS 32
#define STAT_SLOTS 256
_Static_assert(REASON_MAX <= STAT_REASONS, "raise STAT_REASONS");

#endif
