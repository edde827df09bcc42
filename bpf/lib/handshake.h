/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_HANDSHAKE_H
#define FL_HANDSHAKE_H

#include "maps.h"

/*
 * Handshakes under way, of connections that need an entry for the replies
 * alone (direct.h). A SYN costs a cache line or three and takes the place of the
 * oldest of its line: the kernel's LRU hash asks half a microsecond for one,
 * and a SYN is all that a flood ever sends. A line is read and written under
 * its lock and copied out: what is found belongs to the caller.
 */

/* Of every choice and place; the same over restarts. */
volatile const __u64 hash_seed;

/* Lines, less one. */
volatile const __u32 handshake_mask;

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

/* By words of 8 bytes: the stack has few to spare for more of them. */
static __always_inline bool handshake_is(const struct handshake_line *l, __u32 i, __u32 tag, const struct flow_key *k)
{
	const __u64 *a = (const void *)&l->entry[i].key, *b = (const void *)k;

	return l->tag[i] == tag && !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]));
}

/* Where in its line the key is; HANDSHAKES_PER_LINE: nowhere. */
static __always_inline __u32 handshake_slot(const struct handshake_line *l, __u32 tag, const struct flow_key *k)
{
	for (__u32 i = 0; i < HANDSHAKES_PER_LINE; i++)
		if (handshake_is(l, i, tag, k))
			return i;
	return HANDSHAKES_PER_LINE;
}

/* May there be a handshake whose replies have this hash? Without the lock: only by the tags. */
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

/*
 * Notes a SYN of the connection with these replies, which goes to f->backend.
 * 0: it is the first; 1: it was sent again; -1: there is no place.
 */
static __always_inline int handshake_put(const struct flow_key *k, const struct flow *f, __u32 hash)
{
	__u32 tag = handshake_tag(hash), at;
	struct handshake_line *l = handshake_line(hash);
	struct flow *have;

	if (!l)
		return -1;
	handshake_touch(l);
	bpf_spin_lock(&l->lock);
	at = handshake_slot(l, tag, k);
	if (at < HANDSHAKES_PER_LINE) {
		have = &l->entry[at].flow;
		if (f->seen - l->since[at] <= HANDSHAKE_LIFE && have->backend == f->backend && have->service == f->service) {
			l->since[at] = f->seen;
			bpf_spin_unlock(&l->lock);
			return 1;
		}
	} else {
		at = handshake_oldest(l, f->seen);
	}
	at &= HANDSHAKES_PER_LINE - 1;
	l->tag[at] = tag;
	l->since[at] = f->seen;
	l->entry[at].key = *k;
	l->entry[at].flow = *f;
	bpf_spin_unlock(&l->lock);
	return 0;
}

/* The same for twin and reply of scratch. */
__noinline int handshake_open(void)
{
	struct scratch *s = scratch();

	return s ? handshake_put(&s->twin, &s->reply, hash_flow(&s->twin, hash_seed)) : -1;
}

/* What handshake_at does beside copying. */
enum {
	HANDSHAKE_FORGET = 1 << 0,
	HANDSHAKE_NOTE = 1 << 1, /* state and isn of scratch are put in */
};

/*
 * The entry of the key in scratch: to scratch. 1: there is one. With
 * HANDSHAKE_NOTE the state there is added to what the entry has.
 */
__noinline int handshake_at(__u32 then)
{
	struct scratch *s = scratch();
	struct handshake_line *l;
	struct flow *f;
	__u32 hash, at;

	if (!s)
		return 0;
	hash = hash_flow(&s->handshake_key, hash_seed);
	l = handshake_line(hash);
	if (!l)
		return 0;
	bpf_spin_lock(&l->lock);
	at = handshake_slot(l, handshake_tag(hash), &s->handshake_key);
	if (at >= HANDSHAKES_PER_LINE || s->handshake_now - l->since[at] > HANDSHAKE_LIFE) {
		bpf_spin_unlock(&l->lock);
		return 0;
	}
	f = &l->entry[at].flow;
	if (then & HANDSHAKE_NOTE) {
		f->state |= s->handshake.state;
		if (s->handshake.state & FLOW_SEEN_SYN_ACK)
			f->isn = s->handshake.isn;
		f->seen = s->handshake_now;
	}
	if (then & HANDSHAKE_FORGET)
		l->tag[at] = 0;
	s->handshake = *f;
	bpf_spin_unlock(&l->lock);
	return 1;
}

/* The entry of the replies with this key, a copy in scratch; NULL: none. */
static __always_inline struct flow *handshake_find(const struct flow_key *k, __u32 then)
{
	struct scratch *s = scratch();

	if (!s)
		return NULL;
	s->handshake_key = *k;
	s->handshake_now = bpf_jiffies64();
	return handshake_at(then) ? &s->handshake : NULL;
}

/*
 * Adds to the state of a handshake; with FLOW_SEEN_SYN_ACK isn is the backend's.
 * Returns what handshake_find does.
 */
static __always_inline struct flow *handshake_note(const struct flow_key *k, __u8 state, __u32 isn)
{
	struct scratch *s = scratch();

	if (!s)
		return NULL;
	s->handshake_key = *k;
	s->handshake_now = bpf_jiffies64();
	s->handshake.state = state;
	s->handshake.isn = isn;
	return handshake_at(HANDSHAKE_NOTE) ? &s->handshake : NULL;
}

#endif
