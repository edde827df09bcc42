// SPDX-License-Identifier: Apache-2.0

package docker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/dockerd/dockertest"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
)

// TestExample runs examples/docker.yaml, but for the daemon's address, where
// clients are, and what is in the image.
func TestExample(t *testing.T) {
	w := newWorld(t)
	w.Import(t, "traefik/whoami:v1.10", dockertest.Program(t), `CMD ["echo", "--http", ":80"]`)
	text, err := os.ReadFile("../../examples/docker.yaml")
	must(t, err)
	root, err := listen.Cgroup2()
	must(t, err)
	config := string(text)
	for old, new := range map[string]string{
		"unix:///var/run/docker.sock": w.Host(),
		"  interfaces: []":            fmt.Sprintf("  interfaces: [up0]\n  cgroup: %q\n", filepath.Join(root, dockertest.Cgroup())),
	} {
		if strings.Count(config, old) != 1 {
			t.Fatalf("the example has %q %d times", old, strings.Count(config, old))
		}
		config = strings.Replace(config, old, new, 1)
	}
	must(t, os.WriteFile(w.path("fairlead.yaml"), []byte(config+"\nlisten: {metrics: \"\", dashboard: \"\"}\n"), 0o600))
	w.run()
	w.answers(vip4(60, 80), "", "hello.demo.1")
	w.ready("hello/demo", 1)
	w.labeled("web", "project=shop", "user=web", "containerPort=8080", "vip=198.18.0.61")
	w.replicas("shop/web", 1)
	w.answers(vip4(61, 80), "", "web")
	w.remove("web")
}
