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

static __always_inline struct client *client_of(struct scratch *s)
{
	struct client *c;

	s->client_key.service = s->service.id;
	s->client_key.addr = s->key.src;
	c = bpf_map_lookup_elem(&fl_clients, &s->client_key);
	if (c)
		return c;
	s->client = (struct client){ .filled = bpf_ktime_get_ns(), .backend = -1, .tokens = s->service.burst * TOKEN };
	bpf_map_update_elem(&fl_clients, &s->client_key, &s->client, BPF_NOEXIST);
	return bpf_map_lookup_elem(&fl_clients, &s->client_key);
}

/* A token bucket. Two CPUs may both take the last token: it is a limit, not a count. */
static __always_inline bool take_token(struct client *c, const struct service *svc)
{
	__u64 now = bpf_ktime_get_ns(), elapsed = now - c->filled, tokens;

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
	c = client_of(s);
	return c && !take_token(c, &s->service) ? REASON_RATE_LIMITED : REASON_FORWARDED;
}

/* The backend the client's affinity holds it to, if that still takes connections. */
static __always_inline struct backend *client_backend(struct scratch *s, __u32 *id)
{
	struct client *c = client_of(s);
	struct backend *b;

	if (!c || bpf_ktime_get_ns() - c->seen > (__u64)s->service.affinity * NS_PER_S)
		return NULL;
	*id = c->backend;
	b = bpf_map_lookup_elem(&fl_backends, id);
	if (!b || !(b->flags & BE_OPEN) || b->service != s->service.id || addr_is4(&b->addr) != addr_is4(&s->key.dst))
		return NULL;
	return b;
}

static __always_inline void client_remember(struct scratch *s, __u32 id)
{
	struct client *c = client_of(s);

	if (!c)
		return;
	c->seen = bpf_ktime_get_ns();
	c->backend = id;
}

#endif
