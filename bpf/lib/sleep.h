/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FL_SLEEP_H
#define FL_SLEEP_H

#include "direct.h"

/*
 * Services that sleep until somebody connects. New connections to a sleeping
 * one are left to the kernel, where the program of listen.c leads them to the
 * agent's listener. They stay there when the service is awake: the kernel's
 * table of sockets, not one of ours, tells which these are.
 */

/* Has this host a socket for the packet's connection, or one in the making? */
static __always_inline bool is_held(const struct pkt *p, struct scratch *s)
{
	struct bpf_sock_tuple *t = &s->tuple;
	struct bpf_sock *sk;
	bool held;
	__u32 size;

	if (addr_is4(&p->key->dst)) {
		t->ipv4.saddr = p->key->src.w[3];
		t->ipv4.daddr = p->key->dst.w[3];
		t->ipv4.sport = p->key->sport;
		t->ipv4.dport = p->key->dport;
		size = sizeof(t->ipv4);
		sk = bpf_skc_lookup_tcp(p->ctx, t, size, BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(t->ipv6.saddr, &p->key->src, sizeof(t->ipv6.saddr));
		__builtin_memcpy(t->ipv6.daddr, &p->key->dst, sizeof(t->ipv6.daddr));
		t->ipv6.sport = p->key->sport;
		t->ipv6.dport = p->key->dport;
		size = sizeof(t->ipv6);
		sk = bpf_skc_lookup_tcp(p->ctx, t, size, BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	held = sk->state != BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	return held;
}

/*
 * Has a replica a handshake with the tuple and service in scratch? Its SYN-ACK
 * may be on its way: were the SYN held that the client sent again, the kernel
 * would take the client's answer for its own, and reset the connection.
 */
__noinline int sleep_begun(void)
{
	struct scratch *s = scratch();
	bool embryo = false;
	struct backend *b;
	struct flow *f;
	__u32 hash, id;

	if (!s)
		return 0;
	f = flow_find(&s->key, LOOK_CLIENT, &embryo);
	if (f)
		return embryo && !flow_over(f);
	hash = hash_flow(&s->key, hash_seed);
	for (__u32 i = 0; i < OLD_TABLES; i++) {
		if (i >= s->service.olds)
			break;
		b = backend_in(s->service.old[i].base, s->service.old[i].len, hash, &id);
		f = b ? replies_of(s, b, &embryo) : NULL;
		if (f && embryo && f->service == s->service.id)
			return !flow_over(f);
	}
	return 0;
}

/* REASON_HELD: the packet is the kernel's; REASON_FORWARDED: it goes its usual way; else why it goes nowhere. */
static __always_inline enum reason sleep_of(const struct pkt *p, const struct service *svc)
{
	bool syn = (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	struct scratch *s = scratch();
	enum reason why;

	if (!s)
		return REASON_TABLE_FULL;
	if (is_held(p, s))
		return REASON_HELD;
	if (!(svc->flags & SVC_SLEEP) || !syn)
		return REASON_FORWARDED;
	if (is_martian(p->key))
		return REASON_MARTIAN;
	s->key = *p->key;
	s->service = *svc;
	if (sleep_begun())
		return REASON_SYN_AGAIN;
	why = client_admit();
	return why == REASON_FORWARDED ? REASON_HELD : why;
}

#endif
