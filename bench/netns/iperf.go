// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/bench/space"
)

// iperf is what is read of iperf3's JSON.
type iperf struct {
	End struct {
		Received struct {
			Bytes         float64 `json:"bytes"`
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		CPU struct { // in percent of the time the transfer took
			Host   float64 `json:"host_total"`
			Remote float64 `json:"remote_total"`
		} `json:"cpu_utilization_percent"`
	} `json:"end"`
	Error string `json:"error"`
}

// bulk is the throughput that the receiver saw.
func bulk(streams int) func(*lab, *subject, time.Duration) (taken, error) {
	return func(l *lab, s *subject, d time.Duration) (taken, error) {
		d = max(d.Round(time.Second), time.Second)
		nodeCPU := s.node.CPU()
		r, err := l.iperf(s.to(s.node).String(), streams, d)
		if err != nil {
			return taken{}, err
		}
		cpu := (r.End.CPU.Host+r.End.CPU.Remote)/100*micro(d) + micro(s.node.CPU()-nodeCPU)
		return taken{value: r.End.Received.BitsPerSecond / 1e9, cpu: cpu / max(r.End.Received.Bytes/1e6, 1)}, nil
	}
}

// iperf runs one transfer with a server of its own: one that has seen a
// transfer fail may refuse the next.
func (l *lab) iperf(to string, streams int, d time.Duration) (iperf, error) {
	var r iperf
	port := strconv.Itoa(iperfPort)
	server := exec.Command("iperf3", "-s", "-1", "-p", port)
	if err := l.server.Inside(server.Start); err != nil {
		return r, fmt.Errorf("start iperf3 -s: %w", err)
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	if err := listens(l.server, iperfPort, 5*time.Second); err != nil {
		return r, err
	}
	out, err := l.client.Output(d+margin, "", nil, "iperf3", "-c", to, "-p", port, "-t", fmt.Sprint(int(d.Seconds())),
		"-P", strconv.Itoa(streams), "-C", "cubic", "-J", "-A", fmt.Sprintf("%d,%d", clientCPU, serverCPU))
	if jsonErr := json.Unmarshal(out, &r); jsonErr == nil && r.Error != "" {
		return r, fmt.Errorf("iperf3 to %s: %s", to, r.Error)
	}
	return r, err
}

// listens waits until somebody listens on a TCP port in the namespace.
func listens(s *space.Space, port int, within time.Duration) error {
	want := fmt.Sprintf(":%04X ", port)
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		found := false
		err := s.Inside(func() error {
			for _, file := range []string{"tcp", "tcp6"} {
				text, err := os.ReadFile("/proc/thread-self/net/" + file)
				if err != nil {
					return err
				}
				for l := range strings.Lines(string(text)) {
					// The fourth column is the state; 0A is LISTEN.
					f := strings.Fields(l)
					found = found || len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1]+" ", want)
				}
			}
			return nil
		})
		if err != nil || found {
			return err
		}
	}
	return fmt.Errorf("nobody listens on TCP port %d in %s within %s", port, s.Name, within)
}
