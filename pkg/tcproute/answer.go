// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"encoding/binary"
	"math"
	"strings"
)

// answer puts a refusal into the words of the client's protocol. first is what
// the client has sent, of which the beginning is enough.
func (k Kind) answer(r *refusal, first []byte) []byte {
	if r.text == "" {
		return nil
	}
	text := r.text
	switch k {
	case Postgres:
		return postgresError(r, first)
	case Mongo:
		if r.hint != "" {
			text += ". " + r.hint
		}
		return mongoError(text, r.code, first)
	case Redis:
		if r.hint != "" {
			text += ". " + r.hint
		}
		// No line may end in the middle of it (RESP: simple errors).
		return []byte("-ERR fairlead: " + strings.NewReplacer("\r", " ", "\n", " ").Replace(text) + "\r\n")
	}
	return nil
}

// postgresError is an ErrorResponse (PostgreSQL documentation, 55.7 and 55.8),
// or the plain text that clients of protocol 2 understand.
func postgresError(r *refusal, startup []byte) []byte {
	if len(startup) >= 8 && binary.BigEndian.Uint16(startup[4:]) == 2 {
		return []byte("EFATAL:  " + r.text + "\n\x00")
	}
	var fields strings.Builder
	for _, f := range [][2]string{{"S", "FATAL"}, {"V", "FATAL"}, {"C", r.state}, {"M", r.text}, {"H", r.hint}} {
		if f[1] != "" {
			fields.WriteString(f[0] + strings.ReplaceAll(f[1], "\x00", " ") + "\x00")
		}
	}
	b := binary.BigEndian.AppendUint32([]byte{'E'}, uint32(4+fields.Len()+1))
	return append(append(b, fields.String()...), 0)
}

// Opcodes of MongoDB's wire protocol.
const (
	opReply = 1
	opQuery = 2004
	opMsg   = 2013
)

// mongoHead is the size of a message header: length, request id, response to,
// opcode; all little endian.
const mongoHead = 16

// mongoError replies to the request whose beginning is given: OP_REPLY to the
// OP_QUERY that drivers begin with, OP_MSG to everything else.
func mongoError(text string, code int32, request []byte) []byte {
	var id, op uint32 = 0, opMsg
	if len(request) >= mongoHead {
		id, op = binary.LittleEndian.Uint32(request[4:]), binary.LittleEndian.Uint32(request[12:])
	}
	doc := bsonError(text, code)
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0) // length, below
	b = le.AppendUint32(b, 1)
	b = le.AppendUint32(b, id)
	if op == opQuery {
		b = le.AppendUint32(b, opReply)
		b = le.AppendUint32(b, 0) // flags
		b = le.AppendUint64(b, 0) // cursor
		b = le.AppendUint32(b, 0) // starting from
		b = le.AppendUint32(b, 1) // documents
	} else {
		b = le.AppendUint32(b, opMsg)
		b = le.AppendUint32(b, 0) // flags
		b = append(b, 0)          // a body
	}
	b = append(b, doc...)
	le.PutUint32(b, uint32(len(b)))
	return b
}

// bsonError is {ok: 0, errmsg: text, code: code} (bsonspec.org, version 1.1).
func bsonError(text string, code int32) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0)
	b = append(b, "\x01ok\x00"...)
	b = le.AppendUint64(b, math.Float64bits(0))
	b = append(b, "\x02errmsg\x00"...)
	b = le.AppendUint32(b, uint32(len(text)+1))
	b = append(b, text+"\x00"...)
	b = append(b, "\x10code\x00"...)
	b = le.AppendUint32(b, uint32(code))
	b = append(b, 0)
	le.PutUint32(b, uint32(len(b)))
	return b
}

// alertRecord is a fatal alert in the clear, which TLS of every version takes
// in answer to a ClientHello.
func alertRecord(alert byte) []byte { return []byte{21, 3, 3, 0, 2, 2, alert} }
