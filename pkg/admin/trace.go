// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// ErrTracing is returned while somebody else traces.
var ErrTracing = errors.New("somebody traces already, and only one can: end that trace first")

// TraceQuery narrows a trace; zero fields match everything.
type TraceQuery struct {
	Service string
	Client  netip.Addr // from or to this address
	Drops   bool       // only what reached nobody: dropped, or refused by an answer
	// All tells of packets that are nobody's too. Without it they are told of
	// only where Client or Service is set.
	All bool
}

// TraceEvent is what one program did with one packet. A packet that XDP leaves
// to TC has two.
type TraceEvent struct {
	Time      time.Time `json:"time"`
	Interface string    `json:"interface"`
	Hook      string    `json:"hook"`    // "xdp" | "tc"
	Verdict   string    `json:"verdict"` // "forward" | "pass" | "drop" | "answer"
	Reason    string    `json:"reason"`  // a label of fairlead_packets_total
	Help      string    `json:"help"`    // the reason in words
	Service   string    `json:"service,omitempty"`
	// Protocol is "tcp", "udp", "icmp", "icmp6" or a number; "" is not IP.
	Protocol string `json:"protocol,omitempty"`
	// Src and Dst are as the packet arrived; port 0: it has none.
	Src netip.AddrPort `json:"src,omitzero"`
	Dst netip.AddrPort `json:"dst,omitzero"`
	// Became is the tuple it left with, if it was translated.
	Became *Tuple `json:"became,omitempty"`
	Flags  string `json:"flags,omitempty"` // TCP flags, "SYN ACK"; of ICMP the type
	Length int    `json:"length"`          // bytes of the frame, as it arrived
}

// Tuple is where a packet comes from and goes to.
type Tuple struct {
	Src netip.AddrPort `json:"src"`
	Dst netip.AddrPort `json:"dst"`
}

// traceLine is one line of GET /v1/trace: an event, the number of events lost
// so far, or the error that ended it.
type traceLine struct {
	*TraceEvent
	Lost uint64 `json:"lost,omitempty"`
	apiError
}

// trace streams one JSON object a line as packets come, until the client goes.
func (s *Server) trace(w http.ResponseWriter, r *http.Request) {
	q, err := traceQuery(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if q.Service != "" {
		svc, err := FindService(s.cfg.Views.Services(), q.Service)
		if err != nil {
			fail(w, http.StatusNotFound, err)
			return
		}
		q.Service = svc.Name
	}
	w.Header().Set("Content-Type", ndjson)
	rc, enc := http.NewResponseController(w), json.NewEncoder(w)
	begun, told := false, uint64(0)
	var writeErr error
	err = s.cfg.Views.Trace(r.Context(), q, func(events []TraceEvent, lost uint64) bool {
		begun = true
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		for i := range events {
			if writeErr = enc.Encode(events[i]); writeErr != nil {
				return false
			}
		}
		if lost != told {
			told = lost
			writeErr = enc.Encode(struct {
				Lost uint64 `json:"lost"`
			}{lost})
		}
		// Also of nothing: the client is to know that the trace is on.
		return writeErr == nil && rc.Flush() == nil
	})
	switch {
	case err == nil || writeErr != nil:
	case begun:
		_ = enc.Encode(apiError{Message: err.Error()})
	case errors.Is(err, ErrTracing):
		fail(w, http.StatusConflict, err)
	default:
		fail(w, http.StatusInternalServerError, err)
	}
}

func traceQuery(v url.Values) (TraceQuery, error) {
	f, err := flowQuery(url.Values{"client": v["client"], "service": v["service"]})
	q := TraceQuery{Service: f.Service, Client: f.Client}
	if err != nil {
		return q, err
	}
	for key, to := range map[string]*bool{"drops": &q.Drops, "all": &q.All} {
		if s := v.Get(key); s != "" {
			if *to, err = strconv.ParseBool(s); err != nil {
				return q, fmt.Errorf("%s %q: want true or false", key, s)
			}
		}
	}
	return q, nil
}

// Trace yields packets as they come, until yield returns false, ctx ends, or
// the agent does. yield is called with no event once the agent traces, and
// again when events were lost; lost is their number so far.
func (c *Client) Trace(ctx context.Context, q TraceQuery, yield func(e *TraceEvent, lost uint64) bool) error {
	v := url.Values{}
	if q.Service != "" {
		v.Set("service", q.Service)
	}
	if q.Client.IsValid() {
		v.Set("client", q.Client.String())
	}
	for key, set := range map[string]bool{"drops": q.Drops, "all": q.All} {
		if set {
			v.Set(key, "true")
		}
	}
	resp, err := c.do(ctx, "GET", "/v1/trace?"+v.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if !yield(nil, 0) {
		return nil
	}
	lines, lost := bufio.NewScanner(resp.Body), uint64(0)
	lines.Buffer(nil, maxBody)
	for lines.Scan() {
		var line traceLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("read trace: %w", err)
		}
		if line.Message != "" {
			return errors.New(line.Message)
		}
		lost = max(lost, line.Lost)
		if !yield(line.TraceEvent, lost) {
			return nil
		}
	}
	err = lines.Err()
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the agent ended the trace: it stops, or this command was too slow to read")
	}
	return err
}
