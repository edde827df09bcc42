// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/token"
)

// Config is what a Keeper needs. All but Log, Now and Every are required.
type Config struct {
	Dir      string // holds a directory for each replica; only this user may enter it
	Issue    func(token.Claims, time.Duration) (string, time.Time, error)
	KeySet   func() (set []byte, maxAge time.Duration)
	Replicas func() []activator.Replica // those there are, of all drivers
	State    func() *model.State        // the newest one
	Log      *slog.Logger               // default slog.Default()
	Now      func() time.Time           // default time.Now
	Every    time.Duration              // time between two looks for tokens that grow old; default 30 s
}

// Keeper tells replicas, and keeps their files fresh. Safe for concurrent use.
type Keeper struct {
	cfg Config

	mu    sync.Mutex
	fresh map[string]files // by replica; of others nothing is known
	bad   map[string]error // why a replica's files could not be written
}

// files is what a replica's directory holds.
type files struct {
	expires time.Time // of the token
	keys    []byte
}

// New makes a Keeper; nothing is written yet.
func New(cfg Config) *Keeper {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Every == 0 {
		cfg.Every = 30 * time.Second
	}
	return &Keeper{cfg: cfg, fresh: map[string]files{}, bad: map[string]error{}}
}

// Dir is the directory of a replica: its token and the public keys, readable by
// whoever can reach it, as the user of a container that it is mounted in. Its
// files are replaced by renaming, so what is mounted must be the directory.
func (k *Keeper) Dir(replica string) string { return filepath.Join(k.cfg.Dir, replica) }

// Environment is the variables of a replica that is about to start, and writes
// its files. at is where the replica will see Dir(replica); empty: there. The
// token in the variables cannot be renewed: it is for the first Lifetime of the
// replica, after that the file is.
func (k *Keeper) Environment(s activator.Spec, replica, at string) (map[string]string, error) {
	access, err := k.write(s.Tokens, s.Service, &s.Workload, replica)
	if err != nil {
		return nil, err
	}
	if at == "" {
		at = k.Dir(replica)
	}
	return full(s, replica, at, access), nil
}

// Remote is the variables of a replica that sees no directory of this machine:
// it has the one token for its whole life.
func (k *Keeper) Remote(s activator.Spec, replica string) (map[string]string, error) {
	access, _, err := k.cfg.Issue(claimsOf(s.Tokens, s.Service, &s.Workload), s.Tokens.Lifetime)
	if err != nil {
		return nil, err
	}
	return full(s, replica, "", access), nil
}

// Forget removes what a replica was told by files.
func (k *Keeper) Forget(replica string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.fresh, replica)
	delete(k.bad, replica)
	if err := os.RemoveAll(k.Dir(replica)); err != nil {
		return fmt.Errorf("remove access token: %w", err)
	}
	return nil
}

// Run renews tokens that have half of their life behind them, and the keys
// where they changed, until ctx ends. Replicas of an earlier agent get theirs at
// once.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(k.cfg.Every)
	defer tick.Stop()
	for {
		k.refresh()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Problems says which replicas' tokens could not be renewed.
func (k *Keeper) Problems() (out []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, err := range k.bad {
		out = append(out, fmt.Sprintf("replica %s: its access token is not renewed: %v", id, err))
	}
	return out
}

func (k *Keeper) refresh() {
	st := k.cfg.State()
	for _, r := range k.cfg.Replicas() {
		svc, ok := st.Service(r.Service)
		if !ok || svc.Workload == nil || r.Phase == activator.Stopping {
			continue
		}
		k.renew(st.Settings.Tokens, svc, r.ID)
	}
}

// renew writes what of a replica's files is not fresh. One that never had a
// directory was started without: it looks for none.
func (k *Keeper) renew(t model.Tokens, svc *model.Service, replica string) {
	keys, _ := k.cfg.KeySet()
	k.mu.Lock()
	have, known := k.fresh[replica]
	k.mu.Unlock()
	if known && have.expires.Sub(k.cfg.Now()) > t.Lifetime/2 && bytes.Equal(have.keys, keys) {
		return
	}
	if _, err := os.Stat(k.Dir(replica)); errors.Is(err, os.ErrNotExist) {
		return
	}
	_, err := k.write(t, svc.Name, svc.Workload, replica)
	if err == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bad[replica] == nil {
		k.cfg.Log.Error("access token is not renewed", "replica", replica, "error", err)
	}
	k.bad[replica] = err
}

// write issues a token and writes a replica's files.
func (k *Keeper) write(t model.Tokens, name model.ServiceName, w *model.Workload, replica string) (access string, err error) {
	access, expires, err := k.cfg.Issue(claimsOf(t, name, w), t.Lifetime)
	if err != nil {
		return "", err
	}
	keys, _ := k.cfg.KeySet()
	k.mu.Lock()
	defer k.mu.Unlock()
	dir := k.Dir(replica)
	err = os.MkdirAll(k.cfg.Dir, 0o700)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = errors.Join(replace(filepath.Join(dir, TokenFile), []byte(access)), replace(filepath.Join(dir, KeysFile), keys))
	}
	if err != nil {
		return "", fmt.Errorf("write access token: %w", err)
	}
	k.fresh[replica] = files{expires, keys}
	delete(k.bad, replica)
	return access, nil
}

// replace writes a file so that a reader has the old or the new one.
func replace(path string, b []byte) error {
	tmp := path + ".tmp"
	err := os.WriteFile(tmp, b, 0o644)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}
