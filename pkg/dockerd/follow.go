// SPDX-License-Identifier: Apache-2.0

package dockerd

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

// Watch says what is followed and who is told. Its functions are called from
// one goroutine.
type Watch struct {
	// Labels are those that containers must have, "KEY" or "KEY=VALUE".
	Labels []string
	// Synced is told of all of them, running or not, after every connection.
	// Whatever changes after that, Event tells of.
	Synced func([]container.Summary)
	Event  func(events.Message)
	// Lost is told why the daemon is away, once until the next Synced.
	Lost func(error)

	BackoffMin, BackoffMax time.Duration // between two tries; default 100 ms, doubled up to 5 s
	Ping                   time.Duration // a daemon that is silent is asked for life so often; default 30 s
}

// Follow tells of containers until ctx ends.
func (d *Daemon) Follow(ctx context.Context, w Watch) {
	w.BackoffMin, w.BackoffMax = cmp.Or(w.BackoffMin, 100*time.Millisecond), cmp.Or(w.BackoffMax, 5*time.Second)
	w.Ping = cmp.Or(w.Ping, 30*time.Second)
	told := false
	for pause := w.BackoffMin; ctx.Err() == nil; pause = min(2*pause, w.BackoffMax) {
		synced, err := d.follow(ctx, w)
		if ctx.Err() != nil {
			return
		}
		if synced {
			told, pause = false, w.BackoffMin
		}
		if !told {
			told = true
			w.Lost(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// follow tells of one connection. The stream of events is opened before the
// list is asked for, so that nothing falls between them.
func (d *Daemon) follow(ctx context.Context, w Watch) (synced bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := d.ping(ctx, true); err != nil { // it may be of another version than before
		return false, err
	}
	labels := client.Filters{}.Add("label", w.Labels...)
	stream := d.Events(ctx, client.EventsListOptions{Filters: labels.Clone().Add("type", string(events.ContainerEventType))})
	defer func() {
		cancel()
		<-stream.Err // the reader has ended
	}()
	all, err := Ask(ctx, func(ctx context.Context) (client.ContainerListResult, error) {
		return d.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: labels})
	})
	if err != nil {
		return false, err
	}
	w.Synced(all.Items)
	alive := time.NewTicker(w.Ping)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case m := <-stream.Messages:
			w.Event(m)
		case err := <-stream.Err:
			if err == nil {
				err = errors.New("its stream of events ended")
			}
			return true, err
		case <-alive.C:
			if err := d.ping(ctx, false); err != nil {
				return true, err
			}
		}
	}
}

func (d *Daemon) ping(ctx context.Context, negotiate bool) error {
	_, err := Ask(ctx, func(ctx context.Context) (client.PingResult, error) {
		return d.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true, ForceNegotiate: negotiate})
	})
	return err
}
