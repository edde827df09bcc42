/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_ADDR_H
#define FL_ADDR_H

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "types.h"

static __always_inline void addr_map4(struct addr *a, __be32 ip)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = ip;
}

static __always_inline bool addr_is4(const struct addr *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == bpf_htonl(0xffff);
}

/* Not 0 if they differ. Without branches: each would double the verifier's paths. */
static __always_inline __u32 addr_differs(const struct addr *a, const struct addr *b)
{
	return (a->w[3] ^ b->w[3]) | (a->w[2] ^ b->w[2]) | (a->w[1] ^ b->w[1]) | (a->w[0] ^ b->w[0]);
}

static __always_inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	return !addr_differs(a, b);
}

/*
 * A keyed 64-bit mix of a flow's tuple (multiply-xorshift, the constants of
 * SplitMix64). The secret keeps a client from choosing its backend or filling
 * one slot; it is the same on every node of a cluster.
 */
static __always_inline __u64 hash_mix(__u64 h, __u64 v)
{
	h = (h ^ v) * 0xbf58476d1ce4e5b9ULL;
	return h ^ (h >> 29);
}

/*
 * The bit of an address in fl_filter: multiplicative hashing, cheaper than
 * hash_mix because nothing but a few nanoseconds is lost on a collision. The
 * same in pkg/bpf/filter.go.
 */
static __always_inline __u32 hash_addr(const struct addr *a)
{
	__u32 h = a->w[3] ^ a->w[2] * 0x85ebca6b ^ a->w[1] * 0xc2b2ae35 ^ a->w[0] * 0x27d4eb2f;

	return h * 0x9e3779b1 >> 11;
}

/*
 * An address and port, by multiplication: where a collision costs a comparison,
 * or is one in 2^32 beside other signs. The same in pkg/bpf/front.go.
 */
static __always_inline __u32 hash_end(const struct addr *a, __be16 port)
{
	__u32 h = a->w[3] ^ a->w[2] * 0x85ebca6b ^ a->w[1] * 0xc2b2ae35 ^ a->w[0] * 0x27d4eb2f;

	return (h ^ port * 0x165667b1) * 0x9e3779b1;
}

static __always_inline __u64 hash_tuple(const struct flow_key *k, __u64 seed)
{
	__u64 h = seed, ports = ((__u64)k->sport << 32) | ((__u64)k->dport << 16) | k->proto;

	/* Mapped addresses have one word to tell; the other three are the same for all. */
	if (!addr_is4(&k->src)) {
		h = hash_mix(h, ((__u64)k->src.w[0] << 32) | k->src.w[1]);
		h = hash_mix(h, ((__u64)k->src.w[2] << 32) | k->dst.w[2]);
		h = hash_mix(h, ((__u64)k->dst.w[0] << 32) | k->dst.w[1]);
	}
	h = hash_mix(h, ((__u64)k->src.w[3] << 32) | k->dst.w[3]);
	h = hash_mix(h, ports);
	return h * 0x94d049bb133111ebULL;
}

/* The client's end of a flow, which the tuples of both directions have unless it is translated. */
static __always_inline __u32 hash_client(const struct addr *a, __be16 port, __u8 proto, __u64 seed)
{
	__u64 h = seed;

	if (!addr_is4(a)) {
		h = hash_mix(h, ((__u64)a->w[0] << 32) | a->w[1]);
		h = hash_mix(h, a->w[2]);
	}
	h = hash_mix(h, a->w[3]);
	h = hash_mix(h, ((__u64)port << 8) | proto);
	return h * 0x94d049bb133111ebULL >> 32;
}

static __always_inline __u32 hash_flow(const struct flow_key *k, __u64 seed)
{
	return hash_tuple(k, seed) >> 32;
}

#endif
