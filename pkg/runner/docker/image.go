// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"

	"github.com/fairlead-lb/fairlead/pkg/dockerd"
)

var errNoImage = errors.New("is missing, and cannot be pulled")

// tellEvery bounds how often the progress of a pull is told.
const tellEvery = 250 * time.Millisecond

// pull has the daemon get an image, a digest exactly; the replica's reason says
// how far it is.
func (r *Runner) pull(ctx context.Context, rep *replica, image string) error {
	fail := func(err error) error {
		if dockerd.Away(err) || ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("image %s %w: %s", image, errNoImage, r.daemon.Explain(err))
	}
	r.tell(rep, fmt.Sprintf("pulling image %s", image))
	r.cfg.Log.Info("pull image", "image", image, "replica", rep.id)
	answer, err := r.daemon.ImagePull(ctx, image, client.ImagePullOptions{})
	if err != nil {
		return fail(err)
	}
	defer func() { _ = answer.Close() }()
	var p progress
	told := time.Now()
	for m, err := range answer.JSONMessages(ctx) {
		if err == nil && m.Error != nil {
			err = m.Error
		}
		if err != nil {
			return fail(err)
		}
		p.note(m)
		if time.Since(told) >= tellEvery {
			told = time.Now()
			r.tell(rep, fmt.Sprintf("pulling image %s: %s", image, &p))
		}
	}
	return ctx.Err()
}

// progress is how far a pull is.
type progress struct {
	layers map[string]layer
}

type layer struct {
	now, all int64 // bytes
	done     bool
}

func (p *progress) note(m jsonstream.Message) {
	if p.layers == nil {
		p.layers = map[string]layer{}
	}
	l := p.layers[m.ID]
	switch m.Status {
	case "Pulling fs layer", "Waiting", "Verifying Checksum", "Extracting":
	case "Downloading":
		if m.Progress != nil {
			l.now, l.all = m.Progress.Current, m.Progress.Total
		}
	case "Download complete":
		l.now = l.all
	case "Pull complete", "Already exists":
		l.now, l.done = l.all, true
	default:
		return // of the image as a whole
	}
	p.layers[m.ID] = l
}

// String is "2 of 5 layers, 12 of 40 MB".
func (p *progress) String() string {
	done, now, all := 0, int64(0), int64(0)
	for _, l := range p.layers {
		if l.done {
			done++
		}
		now, all = now+l.now, all+l.all
	}
	return fmt.Sprintf("%d of %d layers, %d of %d MB", done, len(p.layers), now/1e6, all/1e6)
}
