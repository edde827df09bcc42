// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// bytesCodec passes messages as they are, so that no generated code is needed.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), b...)
	return nil
}
func (bytesCodec) Name() string { return "bytes" }

// realGRPC is a grpc-go server that echoes every message of every method; one
// of "fail" ends in an error.
func realGRPC(t *testing.T, opts ...grpc.ServerOption) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(append(opts, grpc.ForceServerCodec(bytesCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		_ = s.SetHeader(metadata.Pairs("x-seen-for", fmt.Sprint(md.Get("x-forwarded-for"))))
		for {
			var m []byte
			if err := s.RecvMsg(&m); errors.Is(err, io.EOF) {
				s.SetTrailer(metadata.Pairs("x-end", "yes"))
				return nil
			} else if err != nil {
				return err
			}
			if string(m) == "fail" {
				return status.Error(codes.FailedPrecondition, "as you wish")
			}
			if err := s.SendMsg(&m); err != nil {
				return err
			}
		}
	}))...)
	go srv.Serve(l) //nolint:errcheck // ends with Stop
	t.Cleanup(srv.Stop)
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestGRPCByItsOwnClient(t *testing.T) {
	a := newAuthority(t, "tls.test")
	cert := a.leaf("replica.test")
	overTLS := on("s", "plain.test", "/tls.Echo", realGRPC(t, grpc.Creds(credentials.NewServerTLSFromCert(cert))))
	overTLS.HTTP[0].Paths[0].BackendTLS = model.BackendTLS{Mode: "verify", ServerName: "replica.test", CAFile: a.file()}
	at := realGRPC(t)
	f := newFixture(t, Config{Certificates: a}, on("a", "plain.test", "/echo.Echo", at), overTLS, secured(on("b", "tls.test", "/echo.Echo", at)),
		on("dead", "plain.test", "/dead.Echo", closedPort(t)))
	for _, c := range []struct {
		target, method string
		creds          credentials.TransportCredentials
	}{
		{f.addr(), "/echo.Echo/Chat", insecure.NewCredentials()},
		{f.addr(), "/tls.Echo/Chat", insecure.NewCredentials()},
		{f.tlsAddr(), "/echo.Echo/Chat", credentials.NewTLS(&tls.Config{RootCAs: a.pool(), ServerName: "tls.test"})},
	} {
		authority := "plain.test"
		if c.target == f.tlsAddr() {
			authority = "tls.test"
		}
		conn, err := grpc.NewClient("passthrough:///"+c.target, grpc.WithTransportCredentials(c.creds), grpc.WithAuthority(authority),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), long)
		var wg sync.WaitGroup
		for range 10 { // streams of one connection
			wg.Go(func() {
				if err := chat(ctx, conn, c.method); err != nil {
					t.Errorf("%s %s: %v", c.target, c.method, err)
				}
			})
		}
		wg.Wait()
		in, out := []byte("fail"), []byte(nil)
		err = conn.Invoke(ctx, c.method, &in, &out)
		if st := status.Convert(err); st.Code() != codes.FailedPrecondition || st.Message() != "as you wish" {
			t.Errorf("%s: %v, want the replica's status", c.method, err)
		}
		if authority == "plain.test" {
			in = []byte("x")
			if err := conn.Invoke(ctx, "/dead.Echo/Chat", &in, &out); status.Code(err) != codes.Unavailable {
				t.Errorf("dead replica: %v, want UNAVAILABLE", err)
			}
			if err := conn.Invoke(ctx, "/nobody.Echo/Chat", &in, &out); status.Code(err) != codes.Unimplemented {
				t.Errorf("no route: %v, want UNIMPLEMENTED", err)
			}
		}
		cancel()
		_ = conn.Close()
	}
}

// chat sends messages one by one and gets each back.
func chat(ctx context.Context, conn *grpc.ClientConn, method string) error {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	for i := range 20 {
		want := []byte(fmt.Sprint(i, time.Now()))
		if err := s.SendMsg(&want); err != nil {
			return err
		}
		var got []byte
		if err := s.RecvMsg(&got); err != nil || string(got) != string(want) {
			return fmt.Errorf("got %q, %w; want %q", got, err, want)
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	var rest []byte
	if err := s.RecvMsg(&rest); !errors.Is(err, io.EOF) {
		return fmt.Errorf("at the end %q, %w", rest, err)
	}
	h, err := s.Header()
	if err != nil || fmt.Sprint(h.Get("x-seen-for")) != "[[127.0.0.1]]" || fmt.Sprint(s.Trailer().Get("x-end")) != "[yes]" {
		return fmt.Errorf("header %v, trailer %v, %w", h, s.Trailer(), err)
	}
	return nil
}
