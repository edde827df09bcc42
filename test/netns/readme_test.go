// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestReadmeSites: the config of the README's section on web sites, databases
// and full-nat, with the lab's names of what only its reader can know, and its
// commands.
func TestReadmeSites(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	must(t, err)
	_, section, found := strings.Cut(string(readme), "## Web sites, databases, replicas without a route back\n")
	_, block, found2 := strings.Cut(section, "```yaml\n")
	config, _, found3 := strings.Cut(block, "```\n")
	if !found || !found2 || !found3 {
		t.Fatal("README.md has no such section with a config")
	}
	n := newInternet(t)
	for from, to := range map[string]string{
		"  interfaces: [eth0]\n": "  interfaces: [up0]\n  cgroup: \"\"\n",
		"acme: {email":           fmt.Sprintf("acme: {directory: %q, caFile: %q, email", n.ca.Directory, n.ca.CAFile),
	} {
		if strings.Count(config, from) != 1 {
			t.Fatalf("the config has no %q, or several:\n%s", from, config)
		}
		config = strings.Replace(config, from, to, 1)
	}
	for _, host := range []string{"shop.example.com", "db.example.com"} {
		n.zone.set("A", host, lab.Node4.String())
	}
	n.l.Node.Run(t, "ip", "addr", "add", "10.1.3.5/24", "dev", "rep3")
	legacy := n.l.Replicas[2]
	legacy.NS.Run(t, "ip", "route", "del", "default")
	for _, r := range []*lab.Replica{n.l.Replicas[0], legacy} {
		echoServer(t, r, "--http", ":8080")
	}
	n.a.WriteText(t, config)
	n.a.Run(t)
	n.a.WaitReady(t, 0)
	n.certificates(t, "db.example.com", "shop.example.com")
	if got := n.curl("https://shop.example.com/"); !strings.HasSuffix(got, "\n200 ") {
		t.Errorf("curl https://shop.example.com/: %s", got)
	}
	out, _ := n.l.Client.Try("openssl", "s_client", "-starttls", "postgres", "-connect", lab.Node4.String()+":5432", "-servername", "db.example.com",
		"-CAfile", n.root, "-verify_hostname", "db.example.com", "-verify_return_error")
	if !strings.Contains(out, "Verify return code: 0 (ok)") {
		t.Errorf("TLS as psql would begin it: %s", out)
	}
	out, err = n.l.Client.Try("curl", "-sS", "--noproxy", "*", "--max-time", "20", "http://198.18.0.30/")
	if want := "remote:   10.1.3.5:"; err != nil || !strings.Contains(out, want) {
		t.Errorf("curl http://198.18.0.30/: %v: %s, want %q in it", err, out, want)
	}
	n.a.Stop(t)
}

// echoServer runs `fairlead echo` in a replica's namespace until the test ends, and
// waits until it takes connections.
func echoServer(t *testing.T, r *lab.Replica, args ...string) {
	t.Helper()
	cmd := r.NS.Command(context.Background(), lab.Binary(), append([]string{"echo", "--name", r.Name}, args...)...)
	must(t, cmd.Start())
	t.Cleanup(func() { stop(cmd) })
	port := args[len(args)-1]
	lab.Poll(t, 30*time.Second, func() error {
		out, err := r.NS.Try("curl", "-sS", "--noproxy", "*", "--max-time", "5", "http://127.0.0.1"+port+"/")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func stop(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
