// SPDX-License-Identifier: Apache-2.0

package autocert

import (
	"context"
	"log/slog"

	"go.uber.org/zap/zapcore"
)

// slogCore carries certmagic's log to ours. All of it is for debugging: what a
// person should know is logged by the keepers.
type slogCore struct{ log *slog.Logger }

// Enabled tells whether anybody wants to see it.
func (c slogCore) Enabled(zapcore.Level) bool {
	return c.log.Enabled(context.Background(), slog.LevelDebug)
}

// With adds fields to every line.
func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	return slogCore{c.log.With(attrs(fields)...)}
}

// Check adds this core to those that write the entry.
func (c slogCore) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// Write logs one line.
func (c slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.log.Debug("certmagic: "+e.Message, append(attrs(fields), "severity", e.Level.String())...)
	return nil
}

// Sync does nothing.
func (slogCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]any, 0, 2*len(enc.Fields))
	for name, value := range enc.Fields {
		out = append(out, name, value)
	}
	return out
}
