// SPDX-License-Identifier: Apache-2.0

package ingress

import "sync"

// bufferSize bounds a head with what is added to it. Buffers are taken while
// bytes are pending only: a connection that waits has none.
const bufferSize = 32 << 10

// headroom is kept free before a response's head for what is added to it.
const headroom = 512

type buffer struct{ b [bufferSize]byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func takeBuffer() *buffer    { return buffers.Get().(*buffer) }
func returnBuffer(b *buffer) { buffers.Put(b) }
