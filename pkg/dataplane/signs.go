// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// SignMaps is what Signs reads: bpf.Objects.
type SignMaps interface {
	EachEmbryo(yield func(k bpf.FlowKey, f bpf.Flow) bool) error
	Clock() (jiffies uint64, monotonic time.Duration, err error)
}

// patience is how long a SYN waits for an answer until that counts as none:
// one sent again after a second has then had two seconds.
const patience = 3 * time.Second

// Signs tells of replicas that do not take connections, by the entries that
// failed handshakes leave behind. It writes nothing. Safe for concurrent use.
type Signs struct {
	maps SignMaps

	mu   sync.Mutex
	hz   clockRate
	read bool   // there was a reading before
	last uint32 // its jiffies
}

// NewSigns makes a Signs; its first reading tells nothing.
func NewSigns(maps SignMaps) *Signs { return &Signs{maps: maps} }

// sign is one way of failing, of one replica.
type sign struct {
	to  netip.AddrPort
	how string
}

// EachFailure calls yield for every replica address and TCP port to which
// connections failed since the call before: in which way, and how many.
func (s *Signs) EachFailure(yield func(to netip.AddrPort, how string, count int)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	jiffies, err := s.hz.read(s.maps)
	if err != nil {
		return err
	}
	since := span32{s.last, uint32(jiffies)}
	first := !s.read
	s.read, s.last = true, since.to
	if first {
		return nil
	}
	wait := uint32(patience.Seconds() * cmp.Or(s.hz.hz, likelyHz))
	counts := map[sign]int{}
	err = s.maps.EachEmbryo(func(k bpf.FlowKey, f bpf.Flow) bool {
		if k.Proto != uint8(model.TCP) || f.Flags&bpf.FlowReply == 0 || f.State&bpf.FlowAnswered != 0 {
			return true
		}
		if how := failure(f, wait, since); how != "" {
			counts[sign{k.Src, how}]++
		}
		return true
	})
	if err != nil {
		return err
	}
	signs := make([]sign, 0, len(counts))
	for k := range counts {
		signs = append(signs, k)
	}
	slices.SortFunc(signs, func(a, b sign) int { return cmp.Or(a.to.Compare(b.to), cmp.Compare(a.how, b.how)) })
	for _, k := range signs {
		yield(k.to, k.how, counts[k])
	}
	return nil
}

// span32 is the jiffies from one reading on, until another, whose own jiffy is
// not over yet; modulo 2^32.
type span32 struct{ from, to uint32 }

func (s span32) has(at uint32) bool { return int32(at-s.from) >= 0 && int32(at-s.to) < 0 }

// failure says how an unanswered handshake failed within a span, so that each
// is told once; empty: it did not. wait is patience in jiffies.
func failure(f bpf.Flow, wait uint32, since span32) string {
	switch {
	case f.State&bpf.FlowRST != 0:
		if since.has(f.Seen) {
			return "refused"
		}
	case f.State&bpf.FlowUnreached != 0:
		if since.has(f.Seen) {
			return "unreachable"
		}
	case since.has(f.Seen + wait):
		return "no answer"
	}
	return ""
}
