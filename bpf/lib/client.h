/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_CLIENT_H
#define FL_CLIENT_H

#include "flow.h"

/* What a service knows of its clients: who may come, how fast, and to whom they came last. */

#define NS_PER_S 1000000000ULL
#define TOKEN 1000 /* one connection */

/*
 * Neither such a source nor such a pair can be answered (RFC 1122, 3.2.1.3;
 * RFC 6890): unspecified, loopback, multicast, class E, and source = destination.
 */
static __always_inline bool is_martian(const struct flow_key *k)
{
	const struct addr *a = &k->src;
	__u32 first = bpf_ntohl(a->w[3]) >> 24;

	if (addr_equal(a, &k->dst))
		return true;
	if (addr_is4(a))
		return first == 0 || first == 127 || first >= 224;
	if (!(a->w[0] | a->w[1] | a->w[2]))
		return true; /* ::, ::1, and the deprecated ::a.b.c.d */
	return (a->w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline bool is_allowed(const struct scratch *s)
{
	struct allow_key key = { .prefixlen = 32 + 128, .service = s->service.id };

	key.addr = s->key.src;
	return bpf_map_lookup_elem(&fl_allow, &key);
}

static __always_inline __u64 client_hash(const struct scratch *s)
{
	const struct addr *a = &s->key.src;
	__u64 h = hash_mix(hash_seed, s->service.id);

	if (!addr_is4(a)) {
		h = hash_mix(h, ((__u64)a->w[0] << 32) | a->w[1]);
		h = hash_mix(h, a->w[2]);
	}
	return hash_mix(h, a->w[3]) * 0x94d049bb133111ebULL;
}

static __always_inline __u64 is_zero(__u32 v)
{
	return ((__u64)v - 1) >> 63;
}

/*
 * Finds the entry of the client and service in scratch, for client_found. A new
 * one takes the place of that of its line that was used longest ago. No lock: what
 * CPUs that write one place at a time may mix up is a replica of the service,
 * which is checked, and some tokens.
 */
__noinline int client_find(void)
{
	__u64 now = bpf_ktime_get_ns(), oldest = 0, place;
	__u32 tag, used = now >> 20, at = CLIENTS_PER_LINE;
	struct scratch *s = scratch();
	struct client_line *l;

	if (!s)
		return 0;
	place = client_hash(s);
	s->client_now = now;
	s->client_line = (place >> 32) % CLIENT_LINES;
	tag = place | 1;
	l = bpf_map_lookup_elem(&fl_client_lines, &s->client_line);
	if (!l)
		return 0;
	/* Without branches: each would double the verifier's paths. */
#pragma nounroll
	for (__u32 i = 0; i < CLIENTS_PER_LINE; i++) {
		at -= (CLIENTS_PER_LINE - i) * is_zero(l->tag[i] ^ tag);
		place = (__u64)(used - l->used[i]) << 4 | is_zero(l->tag[i]) << 40 | i;
		oldest ^= (oldest ^ place) & -((oldest - place) >> 63);
	}
	if (at >= CLIENTS_PER_LINE) {
		at = oldest & (CLIENTS_PER_LINE - 1);
		l->tag[at] = tag;
		l->entry[at].seen = 0;
		l->entry[at].filled = now;
		l->entry[at].backend = -1;
		l->entry[at].tokens = s->service.burst * TOKEN;
	}
	l->used[at] = used;
	s->client_at = at;
	return 0;
}

/* The entry that client_find found, of the client and service in scratch still. */
static __always_inline struct client *client_found(const struct scratch *s)
{
	struct client_line *l = bpf_map_lookup_elem(&fl_client_lines, &s->client_line);

	return l ? &l->entry[s->client_at % CLIENTS_PER_LINE] : NULL;
}

/* A token bucket. Two CPUs may both take the last token: it is a limit, not a count. */
static __always_inline bool take_token(struct client *c, const struct service *svc, __u64 now)
{
	__u64 elapsed = now - c->filled, tokens;

	if (elapsed > 60 * NS_PER_S)
		elapsed = 60 * NS_PER_S;
	tokens = c->tokens + elapsed * svc->rate / (NS_PER_S / TOKEN);
	if (tokens > (__u64)svc->burst * TOKEN)
		tokens = (__u64)svc->burst * TOKEN;
	c->filled = now;
	if (tokens < TOKEN) {
		c->tokens = tokens;
		return false;
	}
	c->tokens = tokens - TOKEN;
	return true;
}

/* May the client in scratch open a connection to the service there? REASON_FORWARDED: yes. */
__noinline enum reason client_admit(void)
{
	struct scratch *s = scratch();
	struct client *c;

	if (!s)
		return REASON_TABLE_FULL;
	if (s->service.flags & SVC_ALLOW && !is_allowed(s))
		return REASON_NOT_ALLOWED;
	if (!s->service.rate)
		return REASON_FORWARDED;
	client_find();
	c = client_found(s);
	return c && !take_token(c, &s->service, s->client_now) ? REASON_RATE_LIMITED : REASON_FORWARDED;
}

/* The backend the client's affinity holds it to, if that still takes connections. */
static __always_inline struct backend *client_backend(struct scratch *s, __u32 *id)
{
	struct backend *b;
	struct client *c;

	client_find();
	c = client_found(s);
	if (!c || s->client_now - c->seen > (__u64)s->service.affinity * NS_PER_S)
		return NULL;
	*id = c->backend;
	b = bpf_map_lookup_elem(&fl_backends, id);
	if (!b || !(b->flags & BE_OPEN) || b->service != s->service.id || addr_is4(&b->addr) != addr_is4(&s->key.dst))
		return NULL;
	return b;
}

/* Holds the client to this backend. After client_backend. */
static __always_inline void client_remember(struct scratch *s, __u32 id)
{
	struct client *c = client_found(s);

	if (!c)
		return;
	c->seen = s->client_now;
	c->backend = id;
}

#endif
