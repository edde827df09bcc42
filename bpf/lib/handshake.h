/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_HANDSHAKE_H
#define FL_HANDSHAKE_H

#include "addr.h"
#include "maps.h"

/*
 * Flows under way to being confirmed, by the line. The first packet costs a cache
 * line or three and takes the place of the oldest of its line: the kernel's LRU
 * hash asks half a microsecond for one entry, and first packets are all that a
 * flood ever sends. A line is found by the client's end, which the tuples of both
 * directions have, so that one entry serves both; what has another end towards its
 * backend (mode full-nat, hairpin, a changed port) is in fl_embryos. A line is read
 * and written under its lock and copied out: what is found belongs to the caller.
 */

/* Of every choice and place; the same over restarts. */
volatile const __u64 hash_seed;

/* Lines, less one. */
volatile const __u32 handshake_mask;

/* Is a flow's connection over, so that a SYN on its tuple is a new one? */
static __always_inline bool flow_over(const struct flow *f)
{
	const __u8 both = FLOW_FIN_CLIENT | FLOW_FIN_BACKEND;

	return !!(f->state & FLOW_RST) | ((f->state & both) == both);
}

static __always_inline struct handshake_line *handshake_line(__u32 hash)
{
	__u32 i = hash & handshake_mask;

	return bpf_map_lookup_elem(&fl_handshakes, &i);
}

/* Never 0. */
static __always_inline __u32 handshake_tag(__u32 hash)
{
	return hash | 1;
}

/*
 * Is it the entry of these replies? With client: of this flow, k being what its
 * replies become, without which it has no such direction. Both begin alike. By
 * words of 8 bytes: the stack has few to spare for more of them.
 */
static __always_inline bool handshake_is(const struct handshake_line *l, __u32 i, __u32 tag, const struct flow_key *k,
					 bool client)
{
	const struct handshake *e = &l->entry[i];
	const __u64 *a = client ? (const void *)&e->flow : (const void *)&e->key, *b = (const void *)k;
	__u32 rest = (*(const __u32 *)&a[4] ^ *(const __u32 *)&b[4]) | (e->key.proto ^ k->proto);

	if (client)
		rest |= e->flow.flags & FLOW_SINGLE;
	return l->tag[i] == tag && !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | rest);
}

/* Where in its line the key is; HANDSHAKES_PER_LINE: nowhere. */
static __always_inline __u32 handshake_slot(const struct handshake_line *l, __u32 tag, const struct flow_key *k, bool client)
{
	for (__u32 i = 0; i < HANDSHAKES_PER_LINE; i++)
		if (handshake_is(l, i, tag, k, client))
			return i;
	return HANDSHAKES_PER_LINE;
}

/* Of the client's end, which replies are sent to. */
static __always_inline __u32 handshake_hash(const struct flow_key *replies)
{
	return hash_client(&replies->dst, replies->dport, replies->proto, hash_seed);
}

/* May there be a handshake of the client's end with this hash? Without the lock: only by the tags. */
static __always_inline bool handshake_may_be(__u32 hash)
{
	struct handshake_line *l = handshake_line(hash);
	__u32 tag = handshake_tag(hash);

	if (!l)
		return false;
	for (__u32 i = 0; i < HANDSHAKES_PER_LINE; i++)
		if (l->tag[i] == tag)
			return true;
	return false;
}

/* The place of a line that was taken longest ago, or that is free. */
static __always_inline __u32 handshake_oldest(const struct handshake_line *l, __u32 now)
{
	__u32 at = 0, oldest = 0;

	for (__u32 i = 0; i < HANDSHAKES_PER_LINE; i++) {
		__u32 age = l->tag[i] ? now - l->since[i] : -1;

		if (age >= oldest) {
			oldest = age;
			at = i;
		}
	}
	return at;
}

/* Has the processor fetch all of a line at once: after the lock it would be one part after the other. */
static __always_inline void handshake_touch(const struct handshake_line *l)
{
#pragma unroll
	for (__u32 i = 0; i < sizeof(*l); i += 64)
		if (i > 0)
			(void)*(const volatile __u32 *)((const void *)l + i);
	(void)*(const volatile __u32 *)&l->tag[0];
}

/* What came of noting the first packet of a flow. */
enum {
	HANDSHAKE_TAKEN = -2, /* the tuple of the replies is another flow's */
	HANDSHAKE_FULL = -1,  /* this client's end has all of the line */
	HANDSHAKE_FIRST,
	HANDSHAKE_AGAIN, /* it was here before */
};

static __always_inline bool handshake_young(const struct handshake_line *l, __u32 i, __u8 proto, __u32 now)
{
	return now - l->since[i] <= (proto == IPPROTO_UDP ? DATAGRAM_LIFE : HANDSHAKE_LIFE);
}

/*
 * Has one client's end all of the line, the oldest at this place? Others' flows
 * make room for a new one, but a client that speaks to many services by one port
 * would have none left to itself.
 */
static __always_inline bool handshake_crowded(const struct handshake_line *l, __u32 tag, __u32 oldest, __u8 proto, __u32 now)
{
	__u32 others = 0;

	for (__u32 i = 0; i < HANDSHAKES_PER_LINE; i++)
		others |= l->tag[i] ^ tag;
	return !others && handshake_young(l, oldest & (HANDSHAKES_PER_LINE - 1), proto, now);
}

/* Is have the same flow as f, of the same kind? */
static __always_inline bool handshake_same(const struct flow *have, const struct flow *f)
{
	return !((have->backend ^ f->backend) | (have->service ^ f->service) | (have->flags ^ f->flags) |
		 (have->sport ^ f->sport) | addr_differs(&have->src, &f->src));
}

/* Notes the first packet of the flow with these replies, which goes to f->backend. */
static __always_inline int handshake_put(const struct flow_key *k, const struct flow *f)
{
	__u32 hash = handshake_hash(k), tag = handshake_tag(hash), at;
	struct handshake_line *l = handshake_line(hash);
	int was = HANDSHAKE_FIRST;
	struct flow *have;

	if (!l)
		return HANDSHAKE_FULL;
	handshake_touch(l);
	bpf_spin_lock(&l->lock);
	at = handshake_slot(l, tag, k, false);
	if (at < HANDSHAKES_PER_LINE) {
		have = &l->entry[at].flow;
		if (handshake_young(l, at, k->proto, f->seen)) {
			if (handshake_same(have, f))
				was = HANDSHAKE_AGAIN;
			else if (!((have->flags | f->flags) & FLOW_SINGLE) && !flow_over(have))
				was = HANDSHAKE_TAKEN;
		}
	} else {
		at = handshake_oldest(l, f->seen);
		if (handshake_crowded(l, tag, at, k->proto, f->seen))
			was = HANDSHAKE_FULL;
	}
	at &= HANDSHAKES_PER_LINE - 1;
	if (was >= HANDSHAKE_FIRST)
		l->since[at] = f->seen;
	if (was == HANDSHAKE_FIRST) {
		l->tag[at] = tag;
		l->entry[at].key = *k;
		l->entry[at].flow = *f;
	}
	bpf_spin_unlock(&l->lock);
	return was;
}

/* The same for twin and reply of scratch. */
__noinline int handshake_open(void)
{
	struct scratch *s = scratch();

	return s ? handshake_put(&s->twin, &s->reply) : HANDSHAKE_FULL;
}

/* Which direction a key is of, where that is known, and what is done beside copying. */
enum {
	LOOK_CLIENT = 1 << 0,
	LOOK_REPLY = 1 << 1,
	LOOK_ANY = LOOK_CLIENT | LOOK_REPLY,
	HANDSHAKE_FORGET = 1 << 2,
	HANDSHAKE_NOTE = 1 << 3, /* state and isn of scratch are put in */
};

/* Puts what scratch says into an entry. A client's packet keeps it; that a backend is silent is told by the first one's time.
 */
static __always_inline void handshake_update(struct handshake_line *l, __u32 at, const struct scratch *s, bool client)
{
	struct flow *f = &l->entry[at].flow;

	f->state |= s->handshake.state;
	if (s->handshake.state & FLOW_ANSWERED)
		f->isn = s->handshake.isn;
	if (client)
		l->since[at] = s->handshake_now;
	if (!client || s->handshake_key.proto == IPPROTO_UDP)
		f->seen = s->handshake_now;
}

/* handshake_at for one direction. client: the key in scratch is turned. */
static __always_inline bool handshake_look(struct scratch *s, __u32 then, bool client)
{
	__u32 hash = handshake_hash(&s->handshake_key), at;
	struct handshake_line *l = handshake_line(hash);
	const struct flow_key *k;

	if (!l)
		return false;
	bpf_spin_lock(&l->lock);
	at = handshake_slot(l, handshake_tag(hash), &s->handshake_key, client);
	if (at >= HANDSHAKES_PER_LINE || !handshake_young(l, at, s->handshake_key.proto, s->handshake_now)) {
		bpf_spin_unlock(&l->lock);
		return false;
	}
	if (then & HANDSHAKE_NOTE)
		handshake_update(l, at, s, client);
	if (then & HANDSHAKE_FORGET)
		l->tag[at] = 0;
	s->handshake = l->entry[at].flow;
	if (client) {
		k = &l->entry[at].key;
		s->handshake.src = k->dst;
		s->handshake.dst = k->src;
		s->handshake.sport = k->dport;
		s->handshake.dport = k->sport;
		s->handshake.flags &= ~FLOW_REPLY;
	}
	bpf_spin_unlock(&l->lock);
	return true;
}

/* Is the key in scratch to a service? */
static __always_inline bool handshake_to_service(struct scratch *s)
{
	s->handshake_service.vip = s->handshake_key.dst;
	s->handshake_service.port = s->handshake_key.dport;
	s->handshake_service.proto = s->handshake_key.proto;
	return bpf_map_lookup_elem(&fl_services, &s->handshake_service);
}

/* Source and destination change places. */
static __always_inline void handshake_turn(struct scratch *s)
{
	struct flow_key *k = &s->handshake_key;
	__be16 port = k->sport;

	s->handshake_service.vip = k->src;
	k->src = k->dst;
	k->dst = s->handshake_service.vip;
	k->sport = k->dport;
	k->dport = port;
}

/*
 * The entry of the key in scratch: to scratch, as that direction's. 1: there is
 * one; 0: there is none; -1: there is none of a client, but may be one of replies.
 * With HANDSHAKE_NOTE the state there is added to what the entry has.
 *
 * Of flows with both directions nobody's end is a service (flow_claim), but
 * that of a client with replies alone may be.
 */
__noinline int handshake_at(__u32 then)
{
	struct scratch *s = scratch();

	if (!s)
		return 0;
	if (!(then & LOOK_CLIENT) || (then & LOOK_REPLY && !handshake_to_service(s)))
		return handshake_look(s, then, false);
	handshake_turn(s);
	if (handshake_look(s, then, true))
		return 1;
	handshake_turn(s);
	return then & LOOK_REPLY && s->handshake_key.proto != IPPROTO_UDP ? -1 : 0;
}

/* handshake_at, for both directions if it may be either. */
static __always_inline struct flow *handshake_seek(struct scratch *s, __u32 then)
{
	int found = handshake_at(then);

	if (found < 0)
		found = handshake_at(then & ~LOOK_CLIENT);
	return found ? &s->handshake : NULL;
}

/* The entry of this key, a copy in scratch; NULL: none. then: LOOK_…, HANDSHAKE_FORGET. */
static __always_inline struct flow *handshake_find(const struct flow_key *k, __u32 then)
{
	struct scratch *s = scratch();

	if (!s)
		return NULL;
	s->handshake_key = *k;
	s->handshake_now = bpf_jiffies64();
	return handshake_seek(s, then);
}

/*
 * Adds to the state of a handshake; with FLOW_ANSWERED isn is the backend's.
 * Returns what handshake_find does.
 */
static __always_inline struct flow *handshake_note(const struct flow_key *k, __u32 look, __u8 state, __u32 isn)
{
	struct scratch *s = scratch();

	if (!s)
		return NULL;
	s->handshake_key = *k;
	s->handshake_now = bpf_jiffies64();
	s->handshake.state = state;
	s->handshake.isn = isn;
	return handshake_seek(s, look | HANDSHAKE_NOTE);
}

/* May there be one of this client's end? */
static __always_inline bool handshake_of_end(const struct addr *a, __be16 port)
{
	return handshake_may_be(hash_client(a, port, IPPROTO_UDP, hash_seed));
}

/*
 * handshake_find for a datagram, whose key is in scratch: 1 if there is one. Mostly
 * there is none, and then two lines were looked at and no service looked up. A
 * client's keeps it; what answers it is the caller's to note.
 */
__noinline int handshake_datagram(void)
{
	struct scratch *s = scratch();
	struct flow_key *k;

	if (!s)
		return 0;
	k = &s->handshake_key;
	s->handshake_now = bpf_jiffies64();
	s->handshake.state = 0;
	if (handshake_of_end(&k->src, k->sport) && handshake_at(LOOK_ANY | HANDSHAKE_NOTE) > 0)
		return 1;
	return handshake_of_end(&k->dst, k->dport) && handshake_at(LOOK_REPLY) > 0;
}

#endif
