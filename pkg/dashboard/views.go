// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

const (
	// fresh is how long a snapshot is handed out again: pages poll every
	// second, and any number of them cost what one does.
	fresh = 500 * time.Millisecond
	// share keeps the reading of views below 1/share of one core, however many
	// services there are.
	share = 5
)

// snapshot is everything the page shows at one moment. Counters and their time
// are read together, so that rates are right however late the page asks.
type snapshot struct {
	At           int64      `json:"at"` // Unix time in milliseconds
	Status       any        `json:"status"`
	Services     any        `json:"services"`
	Workloads    any        `json:"workloads"`
	Domains      any        `json:"domains"`
	Certificates any        `json:"certificates"`
	Requests     []Requests `json:"requests"`
}

// views makes snapshots, one at a time, and keeps the last.
type views struct {
	read Views
	now  func() time.Time

	mu     sync.Mutex
	until  time.Time // the last one is good until then
	plain  []byte
	packed []byte // gzip
}

// json returns the snapshot as JSON, plain or in gzip; it is not to be changed.
func (v *views) json(packed bool) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	begun := v.now()
	if begun.Before(v.until) {
		return v.pick(packed)
	}
	body, err := json.Marshal(snapshot{
		At: begun.UnixMilli(), Status: v.read.Status(), Services: v.read.Services(), Workloads: v.read.Workloads(),
		Domains: v.read.Domains(), Certificates: v.read.Certificates(), Requests: v.read.Requests(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode views: %w", err)
	}
	v.plain, v.packed = body, nil
	out, err := v.pick(packed)
	done := v.now()
	v.until = done.Add(max(fresh, share*done.Sub(begun)))
	return out, err
}

func (v *views) pick(packed bool) ([]byte, error) {
	if !packed {
		return v.plain, nil
	}
	if v.packed == nil {
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		if err != nil {
			return nil, err
		}
		if _, err := z.Write(v.plain); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		v.packed = b.Bytes()
	}
	return v.packed, nil
}
