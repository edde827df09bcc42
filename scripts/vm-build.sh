#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# vm-build.sh ARCH: the static programs that test/vm puts into its guests, in
# bin/vm/bin-ARCH, and test/vm itself for this machine. Pebble is beside its own
# certificates, where pebbletest finds both by FAIRLEAD_PEBBLE.
set -eu
cd "$(dirname "$0")/.."
: "${GO:=go}"

export CGO_ENABLED=0
$GO build -buildvcs=false -o "bin/vm/bin-$($GO env GOARCH)/vm" ./test/vm
export GOOS=linux GOARCH="$1"
out=bin/vm/bin-$1
$GO build -buildvcs=false -trimpath -ldflags "-s -w" -o "$out/vm" ./test/vm
$GO build -buildvcs=false -trimpath -ldflags "-s -w" -o "$out/fairlead" ./cmd/fairlead
for p in pkg/bpf pkg/attach test/packet test/netns; do
	$GO test -c -trimpath -ldflags "-s -w" -o "$out/$(basename $p).test" ./$p
done
pebble=github.com/letsencrypt/pebble/v2
$GO build -modfile=tools/go.mod -trimpath -ldflags "-s -w" -o "$out/pebble/pebble" $pebble/cmd/pebble
rm -rf "$out/pebble/certs"
cp -r "$($GO list -modfile=tools/go.mod -m -f '{{.Dir}}' $pebble)/test/certs" "$out/pebble/certs"
chmod -R u+w "$out/pebble/certs"
