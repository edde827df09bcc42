/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_PKT_H
#define FL_PKT_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "addr.h"
#include "maps.h"

/* <linux/icmp.h> does not compile for BPF; these are RFC 792 and RFC 4443. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_PORT_UNREACH 3
#define ICMP_FRAG_NEEDED 4
#define ICMP6_DEST_UNREACH 1
#define ICMP6_TOO_BIG 2
#define ICMP6_PARAMPROB 4
#define ICMP6_TIME_EXCEEDED 3
#define ICMP6_ECHO 128
#define ICMP6_ECHOREPLY 129
#define ICMP6_PORT_UNREACH 4

struct icmphdr {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 rest;
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Is this the program for interfaces with frames of several buffers (XDP, 5.18)? */
volatile const bool has_xdp_frags;

/*
 * One packet on its way through, parsed once. Pointers are taken again from
 * the context (pkt_reload) after every helper that may move the packet;
 * offsets stay.
 */
struct pkt {
	void *ctx; /* struct xdp_md or struct __sk_buff, by tc */
	void *data;
	void *end;
	struct flow_key *key; /* apart, so that the compiler keeps the rest in registers */
	__u32 bytes;	      /* whole frame */
	__u32 l3;	      /* offsets from data */
	__u32 l4;
	__u32 l3_len; /* from the IP header: header and payload */
	__u32 ifindex;
	__u32 slot; /* of the counters */
	bool tc;
	bool v6;
	bool fragment; /* any but a whole packet */
	bool first;    /* a fragment with the L4 header */
	__u8 vlans;    /* tags in the frame itself */
	__u8 ttl;
	__u8 tcp_flags;
	__u8 icmp_type;
	__be32 id;  /* of the fragments' datagram */
	bool frags; /* XDP: the frame lies in several buffers; data .. end is the first */
	__u8 pad[3];
};

static __always_inline void xlate_of(struct xlate *x, const struct flow *f)
{
	x->src = f->src;
	x->dst = f->dst;
	x->sport = f->sport;
	x->dport = f->dport;
}

static __always_inline void pkt_reload(struct pkt *p)
{
	if (p->tc) {
		struct __sk_buff *skb = p->ctx;

		p->data = (void *)(long)skb->data;
		p->end = (void *)(long)skb->data_end;
	} else {
		struct xdp_md *xdp = p->ctx;

		p->data = (void *)(long)xdp->data;
		p->end = (void *)(long)xdp->data_end;
	}
}

/*
 * Hides from the compiler what it knows of a pointer. Without it clang drops a
 * bounds check that another one implies, and the verifier, which does not see
 * the implication, refuses the program.
 */
#define opaque(ptr) asm volatile("" : "+r"(ptr))

/* Offsets are below these: 14 + 2 tags; that and the longest chain of headers taken. */
#define L3_MASK 0x1f
#define L4_MASK 0x1ff

/*
 * Makes the verifier forget which way the parser went: a value that has been in
 * a map is any value. Without it everything after the parser is verified once
 * for each number of tags and headers, and loading takes seconds. It takes
 * scratch from its caller: on a way out here the verifier would remember all,
 * and some kernels (5.10, 6.1) give up at a million instructions.
 */
static __always_inline void pkt_forget(struct pkt *p, struct scratch *s)
{
	s->l3 = p->l3;
	s->l4 = p->l4;
	s->vlans = p->vlans;
	s->icmp_type = p->icmp_type;
	s->id = p->id;
	s->traits = p->v6 | (__u32)p->fragment << 1 | (__u32)p->first << 2 | (__u32)p->frags << 3;
	barrier();
	p->l3 = s->l3 & L3_MASK;
	p->l4 = s->l4 & L4_MASK;
	p->vlans = s->vlans & 3;
	p->icmp_type = s->icmp_type;
	p->id = s->id;
	p->v6 = s->traits & 1;
	p->fragment = s->traits & 2;
	p->first = s->traits & 4;
	p->frags = s->traits & 8;
	pkt_reload(p);
}

/* The key under which a flow's other direction is stored. */
static __always_inline void key_twin(struct flow_key *to, const struct flow *f, __u8 proto)
{
	*to = (struct flow_key){};
	to->src = f->dst;
	to->dst = f->src;
	to->sport = f->dport;
	to->dport = f->sport;
	to->proto = proto;
}

#endif
