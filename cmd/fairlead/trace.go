// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

func (a *app) trace() *cobra.Command {
	c := &cobra.Command{
		Use:   "trace",
		Short: "What happens to live packets, with the reason for each drop",
		Long: `Shows packets as they leave fairlead's programs: forwarded, answered, dropped and
why, or left to the kernel. A packet that XDP leaves to TC is shown twice.

Without --client or --service, packets that have nothing to do with a service are
left out; --all shows them too. Clients on this host are balanced when they
connect: their packets pass no program and are not seen.

Ctrl-C, --count or --timeout ends it; a summary by reason follows. With -o json
every line is an object, the last one the summary.`,
		Example: `  fairlead trace --client 203.0.113.9     why does this client get no answer?
  fairlead trace --service shop/web --count 20
  fairlead trace --drops --timeout 10s    what reaches nobody, and why`,
		Args: cobra.NoArgs,
	}
	run, asJSON := runFlag(c), outputFlag(c)
	var q admin.TraceQuery
	c.Flags().TextVar(&q.Client, "client", netip.Addr{}, "only packets from or to this address")
	c.Flags().StringVar(&q.Service, "service", "", "only packets of this service, PROJECT/USER")
	c.Flags().BoolVar(&q.Drops, "drops", false, "only packets that reach nobody: dropped or refused")
	c.Flags().BoolVar(&q.All, "all", false, "also packets that are nobody's")
	count := c.Flags().Int("count", 0, "end after so many packets; 0: do not")
	timeout := c.Flags().Duration("timeout", 0, "end after this time; 0: do not")
	_ = c.RegisterFlagCompletionFunc("service", serviceNames)
	c.RunE = func(c *cobra.Command, _ []string) error {
		switch {
		case *count < 0:
			return usageError{fmt.Errorf("--count %d: want 0 or more", *count)}
		case *timeout < 0:
			return usageError{fmt.Errorf("--timeout %s: want 0s or more", *timeout)}
		}
		ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		if *timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, *timeout)
			defer cancel()
		}
		var show tracePrinter = &traceTable{out: a.out, paint: a.paint, query: q}
		if asJSON() {
			show = traceJSON{a.out}
		}
		return withAgent(*run, func(client *admin.Client) error { return a.watch(ctx, client, q, *count, show) })
	}
	return c
}

// tracePrinter writes a trace to stdout.
type tracePrinter interface {
	event(*admin.TraceEvent) error
	summary(traceSummary) error
}

// watch prints packets until ctx ends or there were count of them.
func (a *app) watch(ctx context.Context, client *admin.Client, q admin.TraceQuery, count int, show tracePrinter) error {
	sum := traceSummary{Reasons: map[string]int{}, seen: map[string]*admin.TraceEvent{}}
	var printed error
	err := client.Trace(ctx, q, func(e *admin.TraceEvent, lost uint64) bool {
		sum.Lost = lost
		if e == nil {
			if sum.Packets == 0 && lost == 0 {
				fmt.Fprintf(a.err, "tracing %s; Ctrl-C ends it\n", traced(q))
			}
			return true
		}
		sum.add(e)
		printed = show.event(e)
		return printed == nil && (count == 0 || sum.Packets < count)
	})
	if printed != nil {
		return printed
	}
	if err != nil && ctx.Err() == nil {
		if sum.Packets > 0 {
			_ = show.summary(sum)
		}
		return err
	}
	return show.summary(sum)
}

// traced says what is looked at.
func traced(q admin.TraceQuery) string {
	what := "packets"
	if q.Drops {
		what = "dropped and refused packets"
	}
	if q.Client.IsValid() {
		what += " of client " + q.Client.String()
	}
	if q.Service != "" {
		what += " of service " + q.Service
	}
	return what
}

// traceSummary is what a trace saw.
type traceSummary struct {
	Packets int            `json:"packets"`
	Lost    uint64         `json:"lost"` // not shown: they came too fast
	Reasons map[string]int `json:"reasons"`

	seen map[string]*admin.TraceEvent // by reason, for its verdict and help
}

func (s *traceSummary) add(e *admin.TraceEvent) {
	s.Packets++
	s.Reasons[e.Reason]++
	s.seen[e.Reason] = e
}

// traceJSON prints an object a line.
type traceJSON struct{ out io.Writer }

func (t traceJSON) event(e *admin.TraceEvent) error { return json.NewEncoder(t.out).Encode(e) }

func (t traceJSON) summary(s traceSummary) error {
	return json.NewEncoder(t.out).Encode(map[string]traceSummary{"summary": s})
}

// traceTable prints a line a packet.
type traceTable struct {
	out    io.Writer
	paint  paint
	query  admin.TraceQuery
	widths []int
}

// Columns begin wide enough for usual IPv4 packets; they only ever grow.
var traceHead, traceWidths = []string{"TIME", "ON", "HOOK", "VERDICT", "REASON", "PACKET", "PROTO", "BYTES", "WHAT BECOMES OF IT"},
	[]int{15, 8, 4, 7, 13, 40, 11, 5, 0}

func (t *traceTable) event(e *admin.TraceEvent) error {
	if t.widths == nil {
		t.widths = slices.Clone(traceWidths)
		head := make([]string, len(traceHead))
		for i, h := range traceHead {
			head[i] = t.paint.dim(h)
		}
		if err := t.line(head); err != nil {
			return err
		}
	}
	packet := ""
	if e.Src.IsValid() {
		packet = endpoint(e.Src) + " → " + endpoint(e.Dst)
	}
	return t.line([]string{
		e.Time.Local().Format("15:04:05.000000"), e.Interface, e.Hook, verdict(t.paint, e.Verdict), e.Reason, packet,
		strings.TrimSpace(e.Protocol + " " + e.Flags), fmt.Sprintf("%5d", e.Length), t.outcome(e),
	})
}

func (t *traceTable) line(cells []string) error {
	var b strings.Builder
	for i, c := range cells {
		w := width(c)
		t.widths[i] = max(t.widths[i], w)
		b.WriteString(c)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", t.widths[i]-w+2))
		}
	}
	_, err := fmt.Fprintln(t.out, strings.TrimRight(b.String(), " "))
	return err
}

// outcome is the translation, or the reason in words.
func (t *traceTable) outcome(e *admin.TraceEvent) string {
	service := ""
	if e.Service != "" {
		service = "  " + t.paint.dim(e.Service)
	}
	b := e.Became
	switch {
	case b == nil && e.Verdict == "drop":
		return t.paint.red(e.Help) + service
	case b == nil:
		return e.Help + service
	case b.Src == e.Src:
		return "to " + endpoint(b.Dst) + service
	case b.Dst == e.Dst:
		return "as from " + endpoint(b.Src) + service
	}
	return endpoint(b.Src) + " → " + endpoint(b.Dst) + service
}

// endpoint leaves out a port that is not there.
func endpoint(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

func verdict(p paint, v string) string {
	switch v {
	case "forward":
		return p.green(v)
	case "drop":
		return p.red(v)
	case "answer":
		return p.yellow(v)
	}
	return p.dim(v)
}

func (t *traceTable) summary(s traceSummary) error {
	switch {
	case s.Packets == 0 && s.Lost == 0:
		fmt.Fprintf(t.out, "no %s seen: nothing like it reached an interface with a program (\"fairlead status\" lists them)\n", traced(t.query))
		return nil
	case s.Packets > 0:
		fmt.Fprintf(t.out, "\n%s\n", t.paint.bold(plural(s.Packets, "packet")))
	}
	order := []string{"drop", "answer", "forward", "pass"}
	rows := &table{}
	for _, reason := range slices.SortedFunc(maps.Keys(s.Reasons), func(a, b string) int {
		return cmp.Or(
			cmp.Compare(slices.Index(order, s.seen[a].Verdict), slices.Index(order, s.seen[b].Verdict)),
			cmp.Compare(s.Reasons[b], s.Reasons[a]), strings.Compare(a, b))
	}) {
		e := s.seen[reason]
		rows.add(verdict(t.paint, e.Verdict), fmt.Sprintf("%6d", s.Reasons[reason]), reason, e.Help)
	}
	rows.write(t.out, t.paint, "  ")
	if s.Lost > 0 {
		fmt.Fprintf(t.out, "%s came too fast to be shown: narrow it down with --client, --service or --drops\n",
			t.paint.yellow(plural(int(s.Lost), "more packet")))
	}
	return nil
}
