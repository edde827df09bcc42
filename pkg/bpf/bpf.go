// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the kernel side of the data plane: the compiled programs
// with their generated bindings, loading, pinning and adoption of what an
// earlier agent pinned, and typed access to the maps. It is the only place
// that converts between netip and kernel structures. It decides nothing.
package bpf

// The compiler is $BPF2GO_CC, pinned by the Makefile, or clang-19.

//go:generate go tool -modfile=../../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Wextra -Werror -Wpadded -mcpu=v3 -nostdlibinc -isystem ../../bpf/include" -target bpfel -no-global-types -type service_key -type service -type backend -type flow_key -type flow -type iface -type svc_stats -type reason -type clock -type slot_line -type allow_key -type trace_filter -type trace_event -type handshake_line -type front_line -type recent_line -type vip lb ../../bpf/lb.c
//go:generate go tool -modfile=../../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Wextra -Werror -Wpadded -mcpu=v3 -nostdlibinc -isystem ../../bpf/include" -target bpfel -no-global-types -type sock_key -type sock_vip sock ../../bpf/sock.c
//go:generate go tool -modfile=../../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Wextra -Werror -Wpadded -mcpu=v3 -nostdlibinc -isystem ../../bpf/include" -target bpfel -no-global-types listen ../../bpf/listen.c
//go:generate go tool -modfile=../../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Wextra -Werror -Wpadded -mcpu=v3 -nostdlibinc -isystem ../../bpf/include" -target bpfel -no-global-types ops ../../bpf/ops.c
