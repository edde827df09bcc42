// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// saved is the file.
type saved struct {
	Version int    `json:"version"`
	Keys    []*key `json:"keys"`
}

const fileVersion = 1

// load reads the file, if there is one, and sees that nobody else can.
func (r *Ring) load() {
	path := r.cfg.Path
	if path == "" {
		return
	}
	keys, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		r.keys = keys
		if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
			r.cfg.Log.Warn("others could read the keys of access tokens: whoever did can make tokens; delete the file to have new keys",
				"file", path, "mode", st.Mode().Perm().String())
			if err := os.Chmod(path, 0o600); err != nil {
				r.cfg.Log.Error("take the keys of access tokens from others", "error", err)
			}
		}
		return
	}
	aside := path + ".invalid"
	r.lost, r.lostAt = fmt.Sprintf("%v; the file was moved to %s", err, aside), r.cfg.Now()
	if moveErr := os.Rename(path, aside); moveErr != nil {
		r.lost = fmt.Sprintf("%v; %v", err, moveErr)
	}
	r.cfg.Log.Error("the keys of access tokens are lost: a new one is made, and tokens issued before can no longer be verified",
		"file", path, "movedTo", aside, "error", err)
}

func read(path string) ([]*key, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if s.Version != fileVersion {
		return nil, fmt.Errorf("read %s: version %d, want %d", path, s.Version, fileVersion)
	}
	for i, k := range s.Keys {
		if k == nil {
			return nil, fmt.Errorf("read %s: key %d: %w", path, i, errNoKey)
		}
		if _, ok := k.JWK.Key.(ed25519.PrivateKey); !ok || !k.JWK.Valid() || k.JWK.KeyID == "" {
			return nil, fmt.Errorf("read %s: key %d is no private Ed25519 key with a name", path, i)
		}
	}
	if len(s.Keys) == 0 {
		return nil, fmt.Errorf("read %s: %w", path, errNoKey)
	}
	slices.SortStableFunc(s.Keys, func(a, b *key) int { return a.Created.Compare(b.Created) })
	return s.Keys, nil
}

// save replaces the file so that a crash, or a full disk, leaves the old or the
// new one.
func save(path string, keys []*key) (err error) {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(saved{Version: fileVersion, Keys: keys}, "", "\t")
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
