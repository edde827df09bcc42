// SPDX-License-Identifier: Apache-2.0

// Package docker is the source that reads services from the labels of a Docker
// daemon's containers: each is a replica of the service that its labels
// describe. A container whose labels have faults is left out and reported; it
// takes nothing from the others. It starts and stops nothing.
package docker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/fairlead-lb/fairlead/pkg/dockerd"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// Config is what a Source needs. All but Log and Settle are required.
type Config struct {
	// Settings waits until the config is known, and tells which daemon, and
	// whether its labels are read. changed is closed when there is another.
	Settings func(context.Context) (now model.Docker, changed <-chan struct{}, err error)
	// Define makes services of labels by the rules of the config in force;
	// earlier ones win conflicts. nil: there is no config yet.
	Define func([]Definition) []Defined
	Log    *slog.Logger // default slog.Default()
	// Settle is how long changes may go on before they are looked at. Default
	// 50 ms.
	Settle time.Duration
}

// Definition is a service as labels write it.
type Definition struct {
	Where string            // "container NAME"
	Keys  map[string]string // without the prefix "fairlead."
}

// Defined is what became of a Definition: a service, or faults in words.
type Defined struct {
	Service *model.Service
	Faults  []string
}

// Source publishes what labels say. Create it with New, run it once.
type Source struct {
	cfg  Config
	kick chan struct{}

	mu       sync.Mutex
	list     []container.Summary
	synced   bool   // list is known
	away     string // why the daemon does not answer
	problems []string
}

// New makes a Source; it asks nobody yet.
func New(cfg Config) *Source {
	cfg.Log = cmp.Or(cfg.Log, slog.Default())
	cfg.Settle = cmp.Or(cfg.Settle, 50*time.Millisecond)
	return &Source{cfg: cfg, kick: make(chan struct{}, 1)}
}

// Name is "docker".
func (s *Source) Name() string { return "docker" }

// Problems tells of containers that are left out, and of a daemon that is away.
func (s *Source) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != "" {
		return append([]string{"docker.labels: " + s.away + "; what its containers' labels said last stays in force"}, s.problems...)
	}
	return slices.Clone(s.problems)
}

// Run publishes until ctx ends. While labels are not read there is an empty
// Part; while the daemon is away the last one stays in force.
func (s *Source) Run(ctx context.Context, publish func(source.Part)) error {
	now, changed, err := s.cfg.Settings(ctx)
	if err != nil {
		return nil // ctx ended
	}
	d, err := dockerd.Dial(now.Host)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	for ctx.Err() == nil {
		if now.Labels {
			s.read(ctx, d, &now, &changed, publish)
		} else {
			s.forget()
			publish(source.Part{})
			s.await(ctx, &now, &changed)
		}
	}
	return nil
}

// await waits for other settings.
func (s *Source) await(ctx context.Context, now *model.Docker, changed *<-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-*changed:
		if next, more, err := s.cfg.Settings(ctx); err == nil {
			*now, *changed = next, more
		}
	}
}

// read publishes what labels say until they are not to be read any more.
func (s *Source) read(ctx context.Context, d *dockerd.Daemon, now *model.Docker, changed *<-chan struct{}, publish func(source.Part)) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.follow(ctx, d) })
	for now.Labels && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-s.kick:
			select {
			case <-ctx.Done():
				return
			case <-time.After(s.cfg.Settle):
			}
			s.update(ctx, d, true, publish)
		case <-*changed:
			if next, more, err := s.cfg.Settings(ctx); err == nil {
				*now, *changed = next, more
			}
			if now.Labels {
				s.update(ctx, d, false, publish) // other names, other conflicts
			}
		}
	}
}

func (s *Source) follow(ctx context.Context, d *dockerd.Daemon) {
	d.Follow(ctx, dockerd.Watch{
		Labels: []string{prefix + "project"},
		Synced: func([]container.Summary) { s.poke() },
		Event: func(m events.Message) {
			switch m.Action {
			case events.ActionExecCreate, events.ActionExecStart, events.ActionExecDie, events.ActionTop, events.ActionAttach, events.ActionResize:
			default:
				s.poke()
			}
		},
		Lost: func(err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.away = d.Explain(err)
			s.cfg.Log.Error("the Docker daemon is away, what labels said last stays in force", "daemon", d.Host(), "error", s.away)
		},
	})
}

func (s *Source) poke() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *Source) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list, s.synced, s.away, s.problems = nil, false, "", nil
}

// update publishes what the labels say, of a fresh list or of the last one.
func (s *Source) update(ctx context.Context, d *dockerd.Daemon, fresh bool, publish func(source.Part)) {
	if fresh {
		got, err := dockerd.Ask(ctx, func(ctx context.Context) (client.ContainerListResult, error) {
			return d.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", prefix+"project")})
		})
		if err != nil {
			if ctx.Err() == nil && !dockerd.Away(err) {
				s.cfg.Log.Error("list containers", "error", d.Explain(err))
			}
			return // a connection that comes back kicks again
		}
		s.mu.Lock()
		s.list, s.synced, s.away = got.Items, true, ""
		s.mu.Unlock()
	}
	s.mu.Lock()
	list, synced := s.list, s.synced
	s.mu.Unlock()
	if !synced {
		return
	}
	services, problems := s.services(list)
	s.mu.Lock()
	for _, p := range problems {
		if !slices.Contains(s.problems, p) {
			s.cfg.Log.Error("container left out", "problem", p)
		}
	}
	s.problems = problems
	s.mu.Unlock()
	publish(source.Part{Services: services})
}

// services makes services of containers; those of one service are its replicas.
func (s *Source) services(list []container.Summary) (services []*model.Service, problems []string) {
	groups, problems := group(list)
	defs := make([]Definition, len(groups))
	for i, g := range groups {
		defs[i] = Definition{"container " + g[0].name, g[0].keys}
	}
	for i, made := range s.cfg.Define(defs) {
		for _, fault := range made.Faults {
			problems = append(problems, fmt.Sprintf("container %s: label %s%s", groups[i][0].name, prefix, fault))
		}
		if made.Service == nil {
			continue
		}
		for _, c := range groups[i] {
			if b, ok := c.backend(); ok {
				made.Service.Backends = append(made.Service.Backends, b)
			}
		}
		slices.SortFunc(made.Service.Backends, model.Backend.Compare)
		services = append(services, made.Service)
	}
	slices.SortFunc(services, func(a, b *model.Service) int { return a.Name.Compare(b.Name) })
	return services, problems
}
