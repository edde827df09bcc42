/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_RECENT_H
#define FL_RECENT_H

#include "addr.h"
#include "handshake.h"

/*
 * What the packets of a confirmed flow became a moment ago, in one cache line:
 * fl_flows asks for three, a million flows being far more than a cache holds. An
 * entry has no tuple, only a tag of it, and no address, only the number of the
 * backend or of the service: what these are now is checked (hash_end).
 *
 * fl_flows remains the truth. An entry that is a few seconds old is made anew of
 * it, which also notes the flow's time there. A program that closes a flow, or
 * sees it end, forgets its entry; the agent, which changes flows too, raises the
 * epoch and so makes all of them void.
 *
 * Two CPUs may write one place at a time. A word is whole, and the two of an
 * entry prove each other: tag ^ data ^ ident, and data (Hyatt's lockless
 * transposition table).
 */

/* Lines, less one. */
volatile const __u32 recent_mask;

/* How long an entry counts, in units of RECENT_UNIT. */
volatile const __u32 recent_life;

/* Jiffies; 256 of them are a few minutes, after which an old entry may count once more, as right as it was. */
#define RECENT_UNIT 1024

/* The data: kind in bits 0 to 7, time in 8 to 15, then two numbers of 24 bits. */
enum {
	RECENT_CLIENT = 1, /* of the client: backend, service */
	RECENT_REPLY,	   /* of the backend: index into fl_vips, index into fl_ifaces */
	RECENT_NAT,	   /* of the client, from an address of the node: backend, index into fl_sources << 16 | port */
	RECENT_NAT_REPLY,  /* of the backend, to an address of the node: as RECENT_REPLY, and the client is in the next kind */
	RECENT_TO,	   /* an IPv4 address and a port, by recent_tail(tag): 24 bits, 8 and 16 */
};
#define RECENT_NUMBER 0xffffff

static __always_inline __u64 recent_data(__u64 kind, __u32 first, __u32 second)
{
	__u64 at = bpf_jiffies64() / RECENT_UNIT & 0xff;

	return kind | at << 8 | (__u64)first << 16 | (__u64)second << 40;
}

static __always_inline __u32 recent_first(__u64 data)
{
	return data >> 16 & RECENT_NUMBER;
}

static __always_inline __u32 recent_second(__u64 data)
{
	return data >> 40;
}

static __always_inline bool recent_fresh(__u64 data)
{
	__u32 now = bpf_jiffies64() / RECENT_UNIT;

	return ((now - (__u32)(data >> 8)) & 0xff) <= recent_life;
}

static __always_inline __u64 recent_tag(const struct flow_key *k)
{
	__u32 zero = 0;
	__u64 *epoch = bpf_map_lookup_elem(&fl_epoch, &zero);

	return hash_tuple(k, hash_seed ^ (epoch ? *epoch : 0) * 0x9e3779b97f4a7c15ULL);
}

/* The tag of what did not fit into a flow's entry; in the same line. */
static __always_inline __u64 recent_tail(__u64 tag)
{
	return tag ^ 0x9e3779b900000000ULL;
}

static __always_inline struct recent_line *recent_line(__u64 tag)
{
	__u32 i = tag & recent_mask;

	return bpf_map_lookup_elem(&fl_recent, &i);
}

/* The data of the entry with this tag, and its ident; 0: there is none. */
static __always_inline __u64 recent_find(const struct recent_line *l, __u64 tag, __u32 *ident)
{
	for (int i = 0; i < RECENT_PER_LINE; i++) {
		__u64 data = l->entry[i].data, rest = l->entry[i].check ^ data ^ tag;

		if (!(rest >> 32) && data) {
			*ident = rest;
			return data;
		}
	}
	return 0;
}

/*
 * In place of the same flow's, or of one that no longer counts. Where all four
 * are others', they stay: to take turns would leave none of them a hit. false:
 * there was no place.
 */
static __always_inline bool recent_put(struct recent_line *l, __u64 tag, __u64 data, __u32 ident)
{
	__u32 at = RECENT_PER_LINE;

	for (int i = 0; i < RECENT_PER_LINE; i++)
		if (!l->entry[i].data || !recent_fresh(l->entry[i].data))
			at = i;
	for (int i = 0; i < RECENT_PER_LINE; i++)
		if (!((l->entry[i].check ^ l->entry[i].data ^ tag) >> 32))
			at = i;
	if (at >= RECENT_PER_LINE)
		return false;
	l->entry[at].data = data;
	l->entry[at].check = tag ^ data ^ ident;
	return true;
}

static __always_inline void recent_clear(struct recent_line *l, __u64 tag)
{
	for (int i = 0; i < RECENT_PER_LINE; i++)
		if (!((l->entry[i].check ^ l->entry[i].data ^ tag) >> 32))
			l->entry[i].data = 0;
}

/* Forgets the entry of the key in scratch. */
__noinline int recent_drop(void)
{
	struct scratch *s = scratch();
	struct recent_line *l;
	__u64 tag;

	if (!s)
		return 0;
	tag = recent_tag(&s->recent_key);
	l = recent_line(tag);
	if (l)
		recent_clear(l, tag);
	return 0;
}

static __always_inline void recent_forget(const struct flow_key *k)
{
	struct scratch *s = scratch();

	if (!s)
		return;
	s->recent_key = *k;
	recent_drop();
}

#endif
