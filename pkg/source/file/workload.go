// SPDX-License-Identifier: Apache-2.0

package file

import (
	"strconv"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// rawWorkload is a workload with the place of what depends on its driver.
type rawWorkload struct {
	place
	driver   string
	command  located[[]string]
	image    located[string]
	env      located[map[string]string]
	identity string
	roles    []string
	scale    rawScale
	ready    string
}

type rawScale struct {
	min, max    located[int]
	target      int
	idle, start time.Duration
	queue       int
	page        time.Duration
	paused      bool
}

const maxReplicas = 1000

func defaultScale() rawScale {
	return rawScale{min: here(1), max: here(1), target: 100, idle: 5 * time.Minute, start: time.Minute, queue: 1000, page: 5 * time.Second}
}

func workloadCodec() codec[rawWorkload] {
	identity := str("an identity", anything)
	image := str("an image reference such as registry.example/app@sha256:…", nonEmpty("an image reference such as registry.example/app@sha256:…"))
	return placed(object(rawWorkload{driver: "process", scale: defaultScale(), ready: "listen"},
		opt("driver", "What starts replicas.", enum("process", "docker", "kubernetes"), func(w *rawWorkload) *string { return &w.driver }),
		opt("command", "Program and arguments; $NAME stands for a variable of the environment. Driver process needs it.",
			where(list(text(), 1000)), func(w *rawWorkload) *located[[]string] { return &w.command }),
		opt("image", "Image that docker and kubernetes run.", where(image), func(w *rawWorkload) *located[string] { return &w.image }),
		opt("env", "Variables of the environment.", where(textMap(envName)), func(w *rawWorkload) *located[map[string]string] { return &w.env }),
		opt("identity", "Identity in the workload's access token. Default: PROJECT/USER.", identity, func(w *rawWorkload) *string { return &w.identity }),
		opt("roles", "Roles in the workload's access token.", list(str("a role", nonEmpty("a role such as reader")), 100), func(w *rawWorkload) *[]string { return &w.roles }),
		opt("scale", "How many replicas run, and when they sleep.", scaleCodec(), func(w *rawWorkload) *rawScale { return &w.scale }),
		opt("ready", "When a replica is ready: its first listen, or an answer to HEAD /.", enum("listen", "http-head"), func(w *rawWorkload) *string { return &w.ready }),
	), func(w *rawWorkload) *place { return &w.place })
}

func scaleCodec() codec[rawScale] {
	n := where(integer(0, maxReplicas))
	return object(defaultScale(),
		opt("min", "Replicas that always run. 0: the service sleeps when idle.", n, func(s *rawScale) *located[int] { return &s.min }),
		opt("max", "Replicas that run at most. Default: min, and 1 at least.", unset(n), func(s *rawScale) *located[int] { return &s.max }),
		opt("target", "Requests in flight or connections per replica.", integer(1, 1_000_000), func(s *rawScale) *int { return &s.target }),
		opt("idle", "Time without connections and requests before a replica is stopped.", duration(time.Second, 365*24*time.Hour), func(s *rawScale) *time.Duration { return &s.idle }),
		opt("startTimeout", "How long a start may take.", duration(100*time.Millisecond, time.Hour), func(s *rawScale) *time.Duration { return &s.start }),
		opt("queue", "Connections that may wait for a start.", integer(0, 1_000_000), func(s *rawScale) *int { return &s.queue }),
		opt("waitingPage", "How long a page for a browser is held for a start before it gets a page that says so and reloads; from startTimeout on: never.",
			duration(0, time.Hour), func(s *rawScale) *time.Duration { return &s.page }),
		opt("paused", "Scaling stands still.", boolean(), func(s *rawScale) *bool { return &s.paused }),
	)
}

// build makes the model's workload. contextID is the variable an owner may
// not set (row D06).
func (w *rawWorkload) build(d *decoder, contextID string) *model.Workload {
	if w == nil {
		return nil
	}
	if len(w.command.v) == 0 && w.driver == "process" && !w.command.broken {
		d.report(at0(w.command.place, w.child("command")), "is missing; driver process needs the program and its arguments: [/usr/bin/app, $PORT]")
	}
	if len(w.command.v) > 0 && w.command.v[0] == "" {
		d.report(w.command.index(0), "is empty, want the program to run")
	}
	if w.image.v == "" && w.driver != "process" && !w.image.broken {
		d.report(w.child("image"), "is missing; driver %s needs the image to run", w.driver)
	}
	if _, set := w.env.v[contextID]; set {
		d.report(w.env.child(contextID), "is set by fairlead and may not be given; rename it, or change tokens.prefix")
	}
	return &model.Workload{
		Driver: w.driver, Command: w.command.v, Image: w.image.v, Env: w.env.v, Identity: w.identity, Roles: w.roles,
		Scale: w.scale.build(d), Ready: w.ready,
	}
}

// assume takes the port that a workload is told for its only container port,
// where none is written; which one it listens on shows when it runs (row D04).
func (s *rawService) assume(d *decoder, svc *model.Service) {
	if s.workload == nil || s.run.container.given() || len(svc.Ports) != 1 || svc.Ports[0].Protocol != model.TCP {
		return
	}
	if text, set := s.workload.env.v["PORT"]; set {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			d.report(s.workload.env.child("PORT"), "got %s, want a port from 1 to 65535, or write run.containerPort", quote(text))
			return
		}
		svc.Ports[0].Container = uint16(n)
	}
	svc.Assumed = svc.Ports[0].Container
}

func (s *rawScale) build(d *decoder) model.Scale {
	low, high := s.min.v, s.max.v
	switch {
	case s.min.broken || s.max.broken:
	case !s.max.given():
		high = max(1, low)
	case high < low:
		d.report(s.max.place, "is %d, less than min, which is %d; raise max or lower min", high, low)
	}
	return model.Scale{
		Min: low, Max: high, Target: s.target, Idle: s.idle, StartTimeout: s.start, Queue: s.queue, Paused: s.paused, Page: s.page,
	}
}

// at0 is the first place if it is known, else the second.
func at0(p, otherwise place) place {
	if p.line > 0 {
		return p
	}
	return otherwise
}
