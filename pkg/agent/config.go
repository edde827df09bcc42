// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/fairlead-lb/fairlead/pkg/source"
	"github.com/fairlead-lb/fairlead/pkg/source/file"
)

// Check reads and validates a config file. The error is a *ConfigError, or
// why the file cannot be read.
func Check(path string) (*file.Checked, error) {
	checked, err := file.Check(path)
	var faults file.Errors
	if errors.As(err, &faults) {
		err = &ConfigError{err}
	}
	return checked, err
}

// required is a source that must publish once. A failure before that is sent
// to fatal: to go on without it would be to serve nothing and to take away what
// an earlier agent left.
type required struct {
	source.Source
	fatal chan<- error // with room for one
}

// Run runs the source.
func (r required) Run(ctx context.Context, publish func(source.Part)) error {
	var published atomic.Bool
	err := r.Source.Run(ctx, func(p source.Part) {
		published.Store(true)
		publish(p)
	})
	if err != nil && ctx.Err() == nil && !published.Load() {
		var faults file.Errors
		if errors.As(err, &faults) {
			err = &ConfigError{err}
		}
		r.fatal <- err
	}
	return err
}
