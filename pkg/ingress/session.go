// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/http1"
)

// session is one connection of a client, served by one goroutine.
type session struct {
	t      *Target
	sock   sock
	watch  watch
	secure bool
	peer   netip.Addr
	text   []byte     // the peer's address
	counts netip.Addr // of the clients whose connections are limited; invalid: not counted
	client netip.Addr
	mode   atomic.Int32
	up     atomic.Pointer[upstream] // that is waited for
	tunnel atomic.Pointer[tunnel]
	waits  atomic.Int64 // when the request was sent on, in coarse time
	// serving is whose request is under way; streams are those of HTTP/2.
	serving atomic.Pointer[service]
	streams atomic.Int64
	gone    atomic.Bool // the client left before the answer was over
	fresh   atomic.Bool // it is not known yet which protocol it speaks

	in         *buffer // nil: no bytes are pending
	start, end int     // of what is in it and was not read yet
	headAt     int     // where the head was that req tells of
	out        *buffer
	ahead      []byte // bytes after a streamed body

	req   http1.Request
	resp  http1.Response
	host  [256]byte
	hostN int
	id    [128]byte
	idN   int
	begun int64
	first bool // no request has come yet
	log   entry
	table *table
	paid  charged
	v     verdict
	x     exchange
	sent  int64
	code  int
}

// Modes of a session, as the drain sees them.
const (
	modeIdle int32 = iota
	modeBusy
	modeTunnel
)

// preface is how a client begins that knows we speak HTTP/2 (RFC 9113, 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func (s *session) expire(p phase) {
	if p == onReplica {
		if u := s.up.Load(); u != nil {
			u.interrupt()
		}
		return
	}
	s.sock.interrupt()
}

// leaveAfter is how long a client that has ended its direction gets for the
// answer: it may have left, or have nothing more to say.
const leaveAfter = time.Second

// look gives up a request that waits for a replica while its client has left.
func (s *session) look(now int64) {
	if s.up.Load() == nil || s.tunnel.Load() != nil || now-s.waits.Load() < int64(leaveAfter) || !s.sock.left() {
		return
	}
	s.gone.Store(true)
	s.watch.end(onReplica)
}

// serve answers requests until the connection ends.
func (s *session) serve() {
	if s.t.table.Load().isTrusted(s.peer) && !s.proxied() {
		return
	}
	if s.secure && !s.handshake() {
		return
	}
	for s.next() {
	}
}

// handshake does TLS and tells whether HTTP/1 follows.
func (s *session) handshake() bool {
	c := tls.Server(s.sock.tcp, s.t.tlsConfig)
	s.watch.arm(s.t.clock, onClient, s.t.cfg.Limits.Head)
	if err := c.Handshake(); err != nil || !s.watch.disarm() {
		return false
	}
	s.sock.tls = c
	switch c.ConnectionState().NegotiatedProtocol {
	case "h2":
		s.t.serveH2(s, nil)
		return false
	case acmeProtocol:
		return false
	}
	return true
}

// next serves one request and tells whether another may follow.
func (s *session) next() bool {
	if err := s.head(); err != nil {
		s.refuse(err)
		s.release()
		return false
	}
	s.mode.Store(modeBusy)
	keep := s.handle() // as the client was told, also while the front drains
	s.mode.Store(modeIdle)
	if s.out != nil {
		returnBuffer(s.out)
		s.out = nil
	}
	if !keep {
		if s.end > s.start { // the next request, which nobody answers
			s.linger()
		}
		s.release()
	}
	s.forget()
	return keep
}

// forget drops what of a request would keep its buffers and its table alive
// while the connection is idle.
func (s *session) forget() {
	s.req.Forget()
	s.resp.Forget()
	s.v, s.x, s.table = verdict{}, exchange{}, nil
}

// setAside gives the request's buffer back while a long answer goes on, with
// what is still needed of it copied.
func (s *session) setAside() {
	if s.in == nil {
		return
	}
	if s.t.access.oneIn.Load() > 0 {
		s.note()
	}
	if s.end > s.start {
		s.ahead = bytes.Clone(s.in.b[s.start:s.end])
	}
	s.req.Forget() // others will write into the buffer
	s.release()
}

func (s *session) release() {
	if s.in != nil {
		returnBuffer(s.in)
		s.in = nil
	}
	s.start, s.end = 0, 0
}

var (
	errTooLarge = &http1.Error{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "the head of the request is too large"}
	errSlow     = &http1.Error{Status: http.StatusRequestTimeout, Reason: "the head of the request took too long"}
	errHTTP2    = errors.New("the client speaks HTTP/2")
)

// maxHead leaves room in a buffer for what is added to a head.
const maxHead = bufferSize - 4<<10

// head reads until the whole head of a request is there.
func (s *session) head() error {
	if s.ahead != nil {
		s.in = takeBuffer()
		s.start, s.end = 0, copy(s.in.b[:], s.ahead)
		s.ahead = nil
	}
	limits := &s.t.cfg.Limits
	searched := 0 // bytes that have no end of a head
	begun := false
	for {
		if s.end > s.start {
			b := s.in.b[s.start:s.end]
			if searched == 0 || bytes.Contains(b[max(searched-3, 0):], crlf2) {
				s.table = s.t.table.Load()
				o := http1.Options{MaxFields: limits.Headers, Trusted: s.table.isTrusted(s.peer)}
				switch err := s.req.Parse(b, o); {
				case err == nil:
					s.watch.disarm()
					if s.first {
						s.first = false
						s.fresh.Store(false)
					}
					s.begun = s.t.clock.now()
					return nil
				case !errors.Is(err, http1.ErrShort):
					if s.first && s.isPreface(b) {
						return errHTTP2
					}
					return err
				}
			}
			if searched = len(b); searched >= maxHead {
				return errTooLarge
			}
		}
		if err := s.more(&begun, limits); err != nil {
			return err
		}
	}
}

var crlf2 = []byte("\r\n\r\n")

// isPreface tells whether the client speaks HTTP/2 without having asked.
func (s *session) isPreface(b []byte) bool {
	n := min(len(b), len(preface))
	return !s.secure && string(b[:n]) == preface[:n] && n >= len("PRI * HTTP/2")
}

// more waits for bytes of a head. The time to its last byte does not begin
// anew with every byte.
func (s *session) more(begun *bool, l *Limits) (err error) {
	n := 0
	switch {
	case s.end == s.start:
		wait := l.Idle
		if s.first {
			wait = l.Head
		}
		s.watch.arm(s.t.clock, onClient, wait)
		held := s.in
		s.in, s.start, s.end = nil, 0, 0
		s.in, n, err = s.sock.readPooled(held)
		if !s.watch.disarm() || err != nil {
			return net.ErrClosed // nobody waits for an answer
		}
	default:
		if !*begun {
			s.watch.arm(s.t.clock, onClient, l.Head)
			*begun = true
		}
		if s.end == bufferSize || s.start > 0 {
			s.end = copy(s.in.b[:], s.in.b[s.start:s.end])
			s.start = 0
		}
		n, err = s.sock.read(s.in.b[s.end:])
		if s.watch.at.Load() == expired {
			return errSlow
		}
		if err != nil {
			return net.ErrClosed
		}
	}
	s.end += n
	return nil
}

// refuse answers what is no request of HTTP/1, as far as anybody listens.
func (s *session) refuse(err error) {
	var bad *http1.Error
	switch {
	case errors.Is(err, errHTTP2):
		s.watch.disarm()
		s.t.serveH2(s, bytes.Clone(s.in.b[s.start:s.end]))
		return
	case !errors.As(err, &bad):
		return
	}
	s.watch.disarm()
	if timedOut := bad == errSlow; timedOut {
		_ = s.sock.tcp.SetDeadline(time.Time{})
	}
	s.idN = len(appendUUID(s.id[:0]))
	f := fault{code: bad.Status, reason: bad.Reason}
	a := f.answer(nil, string(s.id[:s.idN]))
	if s.sock.write(a.append(nil, false, true)) == nil {
		s.linger()
	}
	s.t.nobody.stats.count(bad.Status, 0)
	if s.t.access.wants(bad.Status) {
		s.t.access.write(&entry{service: s.t.nobody.text, client: s.peer, status: bad.Status, reason: bad.Reason, id: a.id, proto: "HTTP/1"})
	}
}

// linger lets the client read the answer although it still sends: a close with
// bytes unread is a reset, which can overtake it.
func (s *session) linger() {
	s.sock.closeWrite()
	_ = s.sock.tcp.SetReadDeadline(time.Now().Add(lingerTime))
	b := takeBuffer()
	defer returnBuffer(b)
	for total := 0; total < lingerBytes; {
		n, err := s.sock.tcp.Read(b.b[:])
		if err != nil {
			return
		}
		total += n
	}
}

const (
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)
