/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_SPLIT_H
#define FL_SPLIT_H

#include "emit.h"
#include "rewrite.h"

/*
 * An IPv4 packet that its sender lets be fragmented, and that does not fit its
 * next link (RFC 791, 3.2). It is cut as it came, before a byte is translated,
 * and its fragments come in once more by the same interface: from there on they
 * are what any fragments are (frag.h).
 *
 * Only by TC: an XDP program cannot send a packet twice. And only what has a
 * whole checksum: one that was left to the hardware (CHECKSUM_PARTIAL, packets
 * of this machine) would be made of each fragment's bytes. That packet's sender
 * is told what fits, as one that forbids fragments is.
 */

/* Fragments of one packet at most, and bytes of payload in each: a jumbo frame through any link of 1500. */
#define SPLIT_MOST 8
#define SPLIT_BYTES 1480
#define SPLIT_ROOM 2048 /* a power of two */

struct split {
	__u8 part[SPLIT_MOST - 1][SPLIT_ROOM]; /* but for the first, which stays where it is */
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct split);
	__uint(max_entries, 1);
} fl_split SEC(".maps");

/* Not a verdict: the packet does not go in fragments. */
#define SPLIT_NOT (-2)

/* What every IPv4 link carries (RFC 791). */
#define LEAST_MTU4 68

#define IPV4_DF 0x4000
#define IPV4_MF 0x2000

/* Has the sender of this packet let it be fragmented? */
static __always_inline bool may_split(const struct pkt *p)
{
	struct iphdr *iph = p->data + p->l3;

	opaque(iph);
	return !p->v6 && (void *)(iph + 1) <= p->end && !(iph->frag_off & bpf_htons(IPV4_DF));
}

/* Is the checksum left to the hardware? A change outside the pseudo-header then leaves the field alone. */
static __always_inline bool split_unsummed(struct pkt *p)
{
	__u32 off = p->l4 + l4_csum_offset(p->key->proto);
	__u16 *field = p->data + off, was;

	if (p->fragment)
		return false;
	if ((void *)(field + 1) > p->end)
		return true;
	was = *field;
	if (bpf_l4_csum_replace(p->ctx, off, 0, 1, sizeof(was)))
		return true;
	pkt_reload(p);
	field = p->data + off;
	opaque(field);
	if ((void *)(field + 1) > p->end || *field == was)
		return true;
	*field = was;
	return false;
}

/* Makes the packet, whose payload is in place, the fragment of len bytes at off of the whole. last: nothing follows. */
static __always_inline int split_header(struct pkt *p, struct iphdr *iph, __u32 off, __u32 len, bool last)
{
	__u32 more = iph->frag_off & bpf_htons(IPV4_MF) || !last ? IPV4_MF : 0;
	struct iphdr h = *iph;

	h.tot_len = bpf_htons(sizeof(h) + len);
	h.frag_off = bpf_htons((bpf_ntohs(iph->frag_off) & 0x1fff) + off / 8) | bpf_htons(more);
	h.check = 0;
	h.check = ~csum_fold16((__u64)bpf_csum_diff(NULL, 0, (__be32 *)&h, sizeof(h), 0));
	return bpf_skb_store_bytes(p->ctx, p->l3, &h, sizeof(h), BPF_F_RECOMPUTE_CSUM);
}

/* Bytes of the nth fragment of a payload of rest bytes; 0: it has none. */
static __always_inline __u32 split_len(__u32 rest, __u32 room, __u32 n)
{
	__u32 off = n * room;

	if (off >= rest)
		return 0;
	return rest - off < room ? rest - off : room;
}

/* What is from 1 to SPLIT_ROOM already, so that the verifier of 5.10 sees it, too. */
static __always_inline __u32 split_bounded(__u32 len)
{
	len--;
	opaque(len);
	return (len & (SPLIT_ROOM - 1)) + 1;
}

/* Sends the first fragment, which is in the packet, and the others, of s. SPLIT_NOT: it went wrong. */
static __always_inline int split_send(struct pkt *p, struct split *s, struct iphdr *iph, __u32 rest, __u32 room)
{
	struct __sk_buff *skb = p->ctx;
	__u32 len;

	if (bpf_skb_change_tail(skb, p->l4 + room, 0) || split_header(p, iph, 0, room, false) ||
	    bpf_clone_redirect(skb, p->ifindex, BPF_F_INGRESS))
		return SPLIT_NOT;
#pragma unroll
	for (__u32 n = 1; n < SPLIT_MOST; n++) {
		len = split_len(rest, room, n);
		if (!len || bpf_skb_store_bytes(skb, p->l4, s->part[n - 1], split_bounded(len), BPF_F_RECOMPUTE_CSUM))
			return SPLIT_NOT;
		if (len < room && bpf_skb_change_tail(skb, p->l4 + len, 0))
			return SPLIT_NOT;
		if (split_header(p, iph, n * room, len, n * room + len == rest))
			return SPLIT_NOT;
		if (n * room + len == rest)
			return bpf_redirect(p->ifindex, BPF_F_INGRESS);
		if (bpf_clone_redirect(skb, p->ifindex, BPF_F_INGRESS))
			return SPLIT_NOT;
	}
	return SPLIT_NOT;
}

/* The verdict of a packet that is sent in fragments of at most mtu bytes. SPLIT_NOT: it cannot be, and is as it was. */
static __always_inline int split(struct pkt *p, __u32 mtu)
{
	__u32 zero = 0, room, rest, len;
	struct __sk_buff *skb = p->ctx;
	struct iphdr *at, iph;
	struct split *s;
	int act;

	at = p->data + p->l3;
	opaque(at);
	s = bpf_map_lookup_elem(&fl_split, &zero);
	if (!s || (void *)(at + 1) > p->end || mtu < LEAST_MTU4)
		return SPLIT_NOT;
	iph = *at;
	room = (mtu - sizeof(iph)) & ~7;
	if (room > SPLIT_BYTES)
		room = SPLIT_BYTES;
	rest = p->l3_len - sizeof(iph);
	if (p->vlans || skb->vlan_present || skb->gso_size || p->l4 - p->l3 != sizeof(iph) || p->l3_len <= sizeof(iph) ||
	    rest <= room || rest > room * SPLIT_MOST || split_unsummed(p))
		return SPLIT_NOT;
#pragma unroll
	for (__u32 n = 1; n < SPLIT_MOST; n++) {
		len = split_len(rest, room, n);
		if (len && bpf_skb_load_bytes(skb, p->l4 + n * room, s->part[n - 1], split_bounded(len)))
			return SPLIT_NOT;
	}
	act = split_send(p, s, &iph, rest, room);
	if (act != SPLIT_NOT)
		return act;
	count(p, REASON_REWRITE);
	return verdict_drop(p);
}

#endif
