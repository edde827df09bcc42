// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"os/exec"
	"sync"
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/tcproute"
)

// mongod is a server small enough to read and good enough for the official
// driver: hello, insert and find over OP_QUERY and OP_MSG. No package of
// Debian has a real one.
type mongod struct {
	mu   sync.Mutex
	docs [][]byte
}

func (m *mongod) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for m.answer(c) == nil {
			}
		}()
	}
}

var le = binary.LittleEndian

// answer reads one request and replies.
func (m *mongod) answer(c net.Conn) error {
	head := make([]byte, 16)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	n := int(le.Uint32(head)) - 16
	if n < 5 || n > 1<<20 {
		return errors.New("bad length")
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c, body); err != nil {
		return err
	}
	const opReply, opQuery, opMsg = 1, 2004, 2013
	reply := le.AppendUint32(nil, 0)
	reply = le.AppendUint32(reply, 1)
	reply = append(reply, head[4:8]...)
	switch le.Uint32(head[12:]) {
	case opQuery: // flags, collection, skip, return, document
		at := 4 + bytes.IndexByte(body[4:], 0) + 1 + 8
		doc, err := m.command(body[at:], nil)
		if err != nil {
			return err
		}
		reply = append(le.AppendUint32(reply, opReply), make([]byte, 16)...)
		reply = append(le.AppendUint32(reply, 1), doc...)
	case opMsg: // flags, then sections
		var command []byte
		var docs [][]byte
		for rest := body[4:]; len(rest) > 0; {
			size := int(le.Uint32(rest[1:]))
			section := rest[1 : 1+size]
			if rest[0] == 0 {
				command = section
			} else { // a sequence: size, name, documents
				for seq := section[4+bytes.IndexByte(section[4:], 0)+1:]; len(seq) > 0; seq = seq[le.Uint32(seq):] {
					docs = append(docs, bytes.Clone(seq[:le.Uint32(seq)]))
				}
			}
			rest = rest[1+size:]
		}
		doc, err := m.command(command, docs)
		if err != nil {
			return err
		}
		reply = append(le.AppendUint32(reply, opMsg), 0, 0, 0, 0, 0)
		reply = append(reply, doc...)
	default:
		return errors.New("bad opcode")
	}
	le.PutUint32(reply, uint32(len(reply)))
	_, err := c.Write(reply)
	return err
}

// command runs the command that a document's first key names.
func (m *mongod) command(doc []byte, docs [][]byte) ([]byte, error) {
	name := doc[5 : 5+bytes.IndexByte(doc[5:], 0)]
	m.mu.Lock()
	defer m.mu.Unlock()
	switch string(name) {
	case "insert":
		m.docs = append(m.docs, docs...)
		return document(int32Of("n", int32(len(docs)))), nil
	case "find":
		var first []byte
		if len(m.docs) > 0 {
			first = element(3, "0", m.docs[len(m.docs)-1])
		}
		cursor := bson(element(4, "firstBatch", bson(first)), element(18, "id", make([]byte, 8)), stringOf("ns", "shop.orders"))
		return document(element(3, "cursor", cursor)), nil
	}
	return document(element(8, "helloOk", []byte{1}), element(8, "isWritablePrimary", []byte{1}), element(8, "ismaster", []byte{1}),
		int32Of("minWireVersion", 0), int32Of("maxWireVersion", 21), int32Of("maxBsonObjectSize", 16<<20),
		int32Of("maxMessageSizeBytes", 48<<20), int32Of("maxWriteBatchSize", 100000)), nil
}

func element(kind byte, name string, value []byte) []byte {
	return append(append(append([]byte{kind}, name...), 0), value...)
}

func int32Of(name string, v int32) []byte { return element(16, name, le.AppendUint32(nil, uint32(v))) }

func stringOf(name, v string) []byte {
	return element(2, name, append(append(le.AppendUint32(nil, uint32(len(v)+1)), v...), 0))
}

func bson(elements ...[]byte) []byte {
	b := append(bytes.Join(elements, nil), 0)
	return append(le.AppendUint32(nil, uint32(len(b)+4)), b...)
}

// document is a reply with ok: 1.
func document(elements ...[]byte) []byte {
	return bson(append(elements, element(1, "ok", le.AppendUint64(nil, math.Float64bits(1))))...)
}

var mongoOnce sync.Once

func mongo(t *testing.T) {
	t.Helper()
	mongoOnce.Do(func() {
		cert, err := authority.Issue(passHost, replicaHost)
		must(t, err)
		m := &mongod{}
		plain, err := net.Listen("tcp", replicaIP+":0")
		must(t, err)
		overTLS, err := tls.Listen("tcp", replicaIP+":0", &tls.Config{Certificates: []tls.Certificate{cert}})
		must(t, err)
		go m.serve(plain)
		go m.serve(overTLS)
		serve(t, services(tcproute.Mongo, overTLS.Addr().(*net.TCPAddr).AddrPort(), plain.Addr().(*net.TCPAddr).AddrPort())...)
	})
}

func TestA20MongoDriver(t *testing.T) {
	mongo(t)
	for _, host := range []string{passHost, termHost, tlsHost} {
		if out, err := drivers(t, tcproute.Mongo, "mongo", host, ""); err != nil || out != "ok rope\n" {
			t.Errorf("%s: %v\n%s", host, err, out)
		}
	}
}

// A24, A25: what the driver says.
func TestA24MongoErrors(t *testing.T) {
	mongo(t)
	out, err := drivers(t, tcproute.Mongo, "mongo", noHost, "")
	if err == nil {
		t.Error("an unknown name is served")
	}
	has(t, "unknown", out, "unrecognized name")
	out, err = drivers(t, tcproute.Mongo, "mongo", passHost, "plain")
	if err == nil {
		t.Error("a client without TLS is served")
	}
	has(t, "no TLS", out, "this server needs TLS")
}

// openssl says what a TLS client sees.
func TestA25Openssl(t *testing.T) {
	mongo(t)
	client := func(args ...string) string {
		out, _ := output(t, exec.Command("openssl", append([]string{"s_client", "-connect", front(tcproute.Mongo), "-CAfile", caFile()}, args...)...))
		return out
	}
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		out := client("-servername", passHost, "-verify_return_error", "-verify_hostname", passHost, version)
		has(t, "known, "+version, out, "Verify return code: 0 (ok)")
		for _, args := range [][]string{{"-servername", noHost}, {"-noservername"}} {
			has(t, args[0]+" "+version, client(append(args, version)...), "SSL alert number 112")
		}
	}
}
