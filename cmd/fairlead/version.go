// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/metrics"
	"github.com/spf13/cobra"
)

// release is set by the release build: -ldflags "-X main.release=v1.2.3".
var release string

func (a *app) version() *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "What this program is",
		Args:  cobra.NoArgs,
	}
	asJSON := outputFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		b := build()
		if asJSON() {
			return printJSON(a.out, struct {
				Version  string `json:"version"`
				Revision string `json:"revision"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{b.Version, b.Revision, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
		}
		revision := ""
		if b.Revision != "" {
			revision = "commit " + b.Revision + ", "
		}
		fmt.Fprintf(a.out, "fairlead %s (%s%s, %s/%s)\n", b.Version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	}
	return c
}

// build is the release's version, or what the Go toolchain noted.
func build() metrics.Build {
	b := metrics.Build{Version: release}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	dirty := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+dirty"
			}
		}
	}
	if b.Revision != "" {
		b.Revision += dirty
	}
	// Not a release: the revision tells more than a pseudo-version.
	if b.Version == "" || b.Version == "(devel)" || strings.HasPrefix(b.Version, "v0.0.0-") {
		b.Version = "devel"
	}
	return b
}
