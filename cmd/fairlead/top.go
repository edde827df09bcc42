// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/spf13/cobra"
)

// leastInterval is what a sample may cost an agent with many services.
const leastInterval = 100 * time.Millisecond

func (a *app) top() *cobra.Command {
	c := &cobra.Command{
		Use:   "top",
		Short: "Live view: rates, connections and replicas of every service, and what is dropped",
		Long: `Shows every service, the busiest first, and renews it every --interval: q or
Ctrl-C ends it, s sorts by something else. Where stdout is no terminal, and with
-o json, it measures one interval, prints it and ends.

Connections of clients on this host are counted; their packets are not, because
they pass no program.`,
		Args: cobra.NoArgs,
	}
	run, asJSON := runFlag(c), outputFlag(c)
	interval := c.Flags().Duration("interval", time.Second, "time between two looks")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *interval < leastInterval {
			return usageError{fmt.Errorf("--interval %s: want %s or more", *interval, leastInterval)}
		}
		ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		return withAgent(*run, func(client *admin.Client) error {
			out, live := a.out.(*os.File)
			if asJSON() || !live || !isTerminal(out) || os.Getenv("TERM") == "dumb" {
				return a.topOnce(ctx, client, *interval, asJSON())
			}
			return a.topLive(ctx, client, *interval, os.Stdin, out)
		})
	}
	return c
}

// topOnce measures one interval.
func (a *app) topOnce(ctx context.Context, client *admin.Client, interval time.Duration, asJSON bool) error {
	first, err := takeSample(ctx, client)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(interval):
	}
	second, err := takeSample(ctx, client)
	if err != nil {
		return err
	}
	r := between(first, second)
	r.sort(orders[0])
	if asJSON {
		return printJSON(a.out, r)
	}
	v := topView{paint: a.paint, rates: r, status: second.status, order: orders[0]}
	for _, l := range v.lines(0) {
		fmt.Fprintln(a.out, l)
	}
	return nil
}

// topLive draws until q, or ctx ends.
func (a *app) topLive(ctx context.Context, client *admin.Client, interval time.Duration, in, out *os.File) error {
	last, err := takeSample(ctx, client)
	if err != nil {
		return err // before the screen hides it
	}
	s, err := openScreen(in, out)
	if err != nil {
		return err
	}
	defer s.close()

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	samples, keys := make(chan looked), make(chan byte)
	wg.Go(func() { look(ctx, client, interval, samples) })
	wg.Go(func() {
		s.keys(ctx, func(k byte) {
			select {
			case keys <- k:
			case <-ctx.Done():
			}
		})
	})
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)

	v := topView{paint: a.paint, rates: between(last, last), status: last.status, live: true, interval: interval}
	for by := 0; ; {
		v.order = orders[by%len(orders)]
		v.rates.sort(v.order)
		_, rows := s.size()
		if err := s.draw(v.lines(rows)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-resized:
		case k := <-keys:
			switch k {
			case 'q', 'Q':
				return nil
			case 's':
				by++
			}
		case l := <-samples:
			if v.err = l.err; l.err == nil {
				v.rates, v.status, last = between(last, l.sample), l.status, l.sample
			}
		}
	}
}

// looked is a sample, or why there is none.
type looked struct {
	sample
	err error
}

// look takes a sample every interval until ctx ends.
func look(ctx context.Context, client *admin.Client, interval time.Duration, samples chan<- looked) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s, err := takeSample(ctx, client)
		select {
		case <-ctx.Done():
			return
		case samples <- looked{s, err}:
		}
	}
}

// topView is one picture.
type topView struct {
	paint    paint
	rates    rates
	status   admin.Status
	order    order
	err      error // of the last look: what is shown is older
	live     bool
	interval time.Duration
}

// lines is the picture in at most so many rows; 0: as many as it takes.
func (v *topView) lines(rows int) []string {
	head, body, foot := v.head(), v.services(), v.foot()
	if room := rows - len(head) - len(foot); rows > 0 && len(body) > room {
		room = max(room-1, 1)
		more := len(body) - room
		body = append(body[:room:room], v.paint.dim(fmt.Sprintf("   … and %s with less", plural(more, "service"))))
	}
	return append(append(head, body...), foot...)
}

func (v *topView) head() []string {
	p := v.paint
	verdict := p.green(v.status.Verdict)
	if !v.status.Ready {
		verdict = p.yellow(v.status.Verdict)
	}
	if v.err != nil {
		verdict = p.red(strings.ReplaceAll(v.err.Error(), "\n", " ")) + p.dim(" · shown is what was last known")
	}
	t := v.rates.total()
	return []string{
		verdict,
		fmt.Sprintf("%s packets/s · %s in · %s out · %s connections/s · %d active", p.bold(perSecond(t.Packets)),
			p.bold(bitsOf(t.BitsIn)), p.bold(bitsOf(t.BitsOut)), p.bold(perSecond(t.Connections)), t.Active),
		"",
	}
}

// services is the table's head and a line for each service.
func (v *topView) services() []string {
	if len(v.rates.Services) == 0 {
		return []string{"no services: add one under \"services:\" in the config file"}
	}
	p := v.paint
	t := &table{head: []string{"", "SERVICE", " CONN/S", " ACTIVE", "  PKT/S", "          IN", "         OUT", "REPLICAS"}}
	for _, s := range v.rates.Services {
		replicas := fmt.Sprintf("%d/%d", s.Ready, s.Replicas)
		if s.view.Workload != "" && s.Replicas == 0 {
			replicas = p.dim("paused")
		}
		t.add(p.health(s.Ready, s.Replicas), s.Service, fmt.Sprintf("%7s", perSecond(s.Connections)), fmt.Sprintf("%7d", s.Active),
			fmt.Sprintf("%7s", perSecond(s.Packets)), fmt.Sprintf("%12s", bitsOf(s.BitsIn)), fmt.Sprintf("%12s", bitsOf(s.BitsOut)), replicas)
	}
	var b strings.Builder
	t.write(&b, p, "")
	return strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
}

func (v *topView) foot() []string {
	p := v.paint
	list := func(rates []reasonRate, paint func(string) string) string {
		if len(rates) == 0 {
			return p.dim("nothing")
		}
		cells := make([]string, len(rates))
		for i, r := range rates {
			cells[i] = paint(r.Reason) + " " + perSecond(r.Packets) + "/s"
		}
		return strings.Join(cells, "  ")
	}
	lines := []string{
		"",
		p.dim("dropped  ") + list(v.rates.Drops, p.red),
		p.dim("refused  ") + list(v.rates.Refused, p.yellow),
	}
	if v.live {
		lines = append(lines, p.dim(fmt.Sprintf("every %s, by %s · s sorts by something else · q ends", v.interval, v.order.name)))
	}
	return lines
}
