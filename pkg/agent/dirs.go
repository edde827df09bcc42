// SPDX-License-Identifier: Apache-2.0

package agent

import "path/filepath"

// Below the run directory: what a reboot takes away.

func pinDir(runDir string) string         { return filepath.Join(runDir, "bpf") } // a bpffs
func objectPins(runDir string) string     { return filepath.Join(runDir, "bpf", "objects") }
func linkPins(runDir string) string       { return filepath.Join(runDir, "bpf", "links") }
func tokensRun(runDir string) string      { return filepath.Join(runDir, "tokens") }
func workloadsRun(runDir string) string   { return filepath.Join(runDir, "workloads") }
func takeoverSocket(runDir string) string { return filepath.Join(runDir, "takeover.sock") }

// Below the state directory: what must outlive a reboot.

func vipsFile(stateDir string) string          { return filepath.Join(stateDir, "vips.json") }
func drainsFile(stateDir string) string        { return filepath.Join(stateDir, "drains.json") }
func domainsFile(stateDir string) string       { return filepath.Join(stateDir, "domains.json") }
func certificatesState(stateDir string) string { return filepath.Join(stateDir, "certificates") }
func tokensFile(stateDir string) string        { return filepath.Join(stateDir, "tokens.json") }
func sleepFile(stateDir string) string         { return filepath.Join(stateDir, "sleep.json") }
func workloadsState(stateDir string) string    { return filepath.Join(stateDir, "workloads") }
