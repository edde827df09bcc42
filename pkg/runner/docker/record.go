// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
)

// record is what the next agent knows of a replica that served, where the daemon
// is away as it starts and cannot be asked.
type record struct {
	ID        string            `json:"id"`
	Service   model.ServiceName `json:"service"`
	Spec      string            `json:"spec"`
	Ports     []listen.Port     `json:"ports"`
	AnyPort   bool              `json:"anyPort,omitempty"`
	Port      uint16            `json:"port,omitempty"`
	Drain     time.Duration     `json:"drain"`
	Container string            `json:"container"`
	PID       int               `json:"pid"`
	Addr4     netip.Addr        `json:"addr4,omitzero"`
	Addr6     netip.Addr        `json:"addr6,omitzero"`
	Started   time.Time         `json:"started"`
}

// records is the directory of the records, which has one file for each.
func (r *Runner) records() string { return filepath.Join(r.cfg.RunDir, "containers") }

func (r *Runner) recordOf(id string) string { return filepath.Join(r.records(), id+".json") }

// note writes down that a replica serves.
func (r *Runner) note(rep *replica) {
	r.mu.Lock()
	b := rep.box
	rec := record{
		ID: rep.id, Service: rep.service, Spec: rep.hash, Ports: rep.ports, AnyPort: rep.any, Port: b.port, Drain: rep.drain,
		Container: b.id, PID: b.pid, Addr4: b.addr4, Addr6: b.addr6, Started: b.started,
	}
	r.mu.Unlock()
	if rec.PID == 0 {
		return // whether it runs on only the daemon knows
	}
	text, err := json.Marshal(rec)
	if err == nil {
		err = os.MkdirAll(r.records(), 0o700)
	}
	path := r.recordOf(rep.id)
	if err == nil {
		err = os.WriteFile(path+".tmp", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		r.cfg.Log.Warn("note a replica for the next agent", "replica", rep.id, "error", err)
	}
}

// unnote is for a replica that serves no more.
func (r *Runner) unnote(id string) {
	if err := os.Remove(r.recordOf(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.cfg.Log.Warn("forget a replica", "replica", id, "error", err)
	}
}

// recall takes over the replicas that served under an earlier agent and whose
// processes run; the daemon need not answer for that.
func (r *Runner) recall() {
	files, _ := filepath.Glob(filepath.Join(r.records(), "*.json"))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, path := range files {
		text, err := os.ReadFile(path)
		var rec record
		if err == nil {
			err = json.Unmarshal(text, &rec)
		}
		if err != nil || path != r.recordOf(rec.ID) || rec.Container == "" || !visible(rec.PID, rec.Container) {
			_ = os.Remove(path) // the daemon will tell what there is
			continue
		}
		if r.replicas[rec.ID] != nil {
			continue
		}
		rep := newReplica(rec.ID, rec.Service, rec.Spec)
		rep.ports, rep.any, rep.drain = rec.Ports, rec.AnyPort, rec.Drain
		rep.box = box{id: rec.Container, pid: rec.PID, addr4: rec.Addr4, addr6: rec.Addr6, port: rec.Port, started: rec.Started, ready: true}
		r.enter(rep, activator.Ready, "")
		r.replicas[rep.id] = rep
		r.cfg.Log.Info("replica adopted", "replica", rep.id, "container", rec.Container[:min(12, len(rec.Container))], "phase", string(rep.phase))
	}
}
