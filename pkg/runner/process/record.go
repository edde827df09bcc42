// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
	"github.com/fairlead-lb/fairlead/pkg/runner/rollout"
)

// recordVersion is raised when an older agent's records cannot be adopted.
const recordVersion = 1

// record is what the next agent must know of a replica. It is written before
// the first thing is made for the replica and removed after the last is gone,
// so nothing is ever left that no record tells of.
type record struct {
	Version  int               `json:"version"`
	ID       string            `json:"id"`
	Service  model.ServiceName `json:"service"`
	Hash     string            `json:"hash"`
	Cgroup   string            `json:"cgroup"` // the parent, as configured when it was made
	Ports    []listen.Port     `json:"ports"`
	AnyPort  bool              `json:"anyPort,omitempty"` // nobody wrote the only port
	Port     uint16            `json:"port,omitempty"`    // that this process listens on in place of it; 0: none
	Addr4    netip.Addr        `json:"addr4,omitzero"`
	Addr6    netip.Addr        `json:"addr6,omitzero"`
	Gateway4 netip.Addr        `json:"gateway4,omitzero"`
	Gateway6 netip.Addr        `json:"gateway6,omitzero"`
	PID      int               `json:"pid,omitempty"`
	Start    string            `json:"start,omitempty"` // of the process: boot and clock ticks, safe from reused PIDs
	Since    time.Time         `json:"since,omitzero"`  // of the process, by the clock
	Head     bool              `json:"head,omitempty"`  // ready is who answers HEAD /
	Ready    bool              `json:"ready,omitempty"`
	Stopping bool              `json:"stopping,omitempty"`
	Restarts int               `json:"restarts,omitempty"`
	Drain    time.Duration     `json:"drain,omitempty"`
	Timeout  time.Duration     `json:"startTimeout,omitempty"`
	LogStart int64             `json:"logStart,omitempty"` // where this process's lines begin
}

// sockets is the replica as package listen looks at it.
func (rec record) sockets() listen.Replica {
	r := listen.Replica{PID: rec.PID, Ports: rec.Ports, Any: rec.AnyPort}
	if rec.Port != 0 {
		r.Ports = []listen.Port{{Number: rec.Port}}
	}
	for _, x := range rec.hops() {
		r.Addrs = append(r.Addrs, x.addr)
	}
	return r
}

// paths are the places that belong to one replica; all follow from its ID.
type paths struct {
	link    string // host side of the veth
	record  string
	netns   string
	work    string // the process's working directory
	cgroups string // parent of cgroup
	cgroup  string
}

func pathsOf(runDir, cgroup, id string) paths {
	sum := sha256.Sum256([]byte(runDir + "\x00" + id))
	link := "fl-" + hex.EncodeToString(sum[:])[:11]
	cgroups := cgroupsIn(cgroup, runDir)
	return paths{
		link:    link,
		record:  filepath.Join(runDir, "replicas", id+".json"),
		netns:   filepath.Join(runDir, "netns", link),
		work:    filepath.Join(runDir, "work", id),
		cgroups: cgroups,
		cgroup:  filepath.Join(cgroups, id),
	}
}

// cgroupsIn is the directory that holds the replicas' cgroups.
func cgroupsIn(parent, runDir string) string { return filepath.Join(parent, rollout.Owner(runDir)) }

func (r *Runner) logPath(id string) string {
	return filepath.Join(r.cfg.StateDir, "logs", id+".log")
}

// save writes the record so that a crash leaves the old or the new one.
func (rec record) save(path string) error {
	b, err := json.MarshalIndent(rec, "", "\t")
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	err = os.WriteFile(tmp, append(b, '\n'), 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("save state of replica %s: %w", rec.ID, errors.Join(err, removeFile(tmp)))
	}
	return nil
}

// loadRecords reads every record of runDir. Of one that cannot be read only
// the ID is known, which is enough to remove what belongs to it (its cgroup is
// taken to be in the given one); bad says why.
func loadRecords(runDir, cgroup string) (records []record, bad map[string]error, err error) {
	dir := filepath.Join(runDir, "replicas")
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read replicas of an earlier agent: %w", err)
	}
	bad = map[string]error{}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		id, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok {
			err = errors.Join(err, removeFile(path)) // the unfinished write of a killed agent
			continue
		}
		b, readErr := os.ReadFile(path)
		rec := record{}
		if readErr == nil {
			readErr = json.Unmarshal(b, &rec)
		}
		if readErr == nil && (rec.Version != recordVersion || rec.ID != id || rec.Cgroup == "" || len(rec.Ports) == 0) {
			readErr = fmt.Errorf("version %d of replica %q, want version %d of %q", rec.Version, rec.ID, recordVersion, id)
		}
		if readErr != nil {
			bad[id] = fmt.Errorf("read %s: %w", path, readErr)
			rec = record{ID: id, Cgroup: cgroup}
		}
		records = append(records, rec)
	}
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(a.ID, b.ID) })
	return records, bad, err
}

// startOf tells one run of a PID from every other one: the boot and the start
// time of proc_pid_stat(5), field 22.
func startOf(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // the name may hold blanks
	if len(fields) < 20 {
		return "", fmt.Errorf("parse /proc/%d/stat: %d fields", pid, len(fields))
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(boot)) + ":" + string(fields[19]), nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
