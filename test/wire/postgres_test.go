// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/tcproute"
)

var postgresOnce sync.Once

// postgres starts one server: with TLS for those who ask, plain for the rest.
// User fairlead needs no password.
func postgres(t *testing.T) {
	t.Helper()
	postgresOnce.Do(func() {
		bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
		if len(bins) == 0 {
			t.Fatal("no PostgreSQL server below /usr/lib/postgresql: scripts/setup.sh test installs it")
		}
		bin := bins[len(bins)-1]
		u, err := user.Lookup("postgres")
		must(t, err)
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		home := filepath.Join(dir, "postgres")
		must(t, os.Mkdir(home, 0o700))
		must(t, os.Chown(home, uid, gid))
		as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", filepath.Join(home, "data"), "-U", "fairlead", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")
		initdb.SysProcAttr, initdb.Dir = as, home
		if out, err := initdb.CombinedOutput(); err != nil {
			t.Fatalf("initdb: %v\n%s", err, out)
		}
		must(t, authority.Write(home, uid, gid, passHost, replicaHost))
		port := freePort(t)
		server := exec.Command(filepath.Join(bin, "postgres"), "-D", filepath.Join(home, "data"))
		for _, kv := range []string{
			"listen_addresses=" + replicaIP, "port=" + strconv.Itoa(int(port)), "unix_socket_directories=", "fsync=off", "ssl=on",
			"ssl_cert_file=" + filepath.Join(home, "server.pem"), "ssl_key_file=" + filepath.Join(home, "server.key"),
		} {
			server.Args = append(server.Args, "-c", kv)
		}
		server.SysProcAttr, server.Dir = as, home
		start(t, server)
		up(t, replica(port))
		serve(t, services(tcproute.Postgres, replica(port), replica(port))...)
	})
	if router.Addr(tcproute.Postgres) == nil {
		t.Fatal("PostgreSQL did not start: see the first test")
	}
}

// psql runs a query through the router. hostaddr keeps the name from being
// resolved; libpq sends host in the handshake all the same.
func psql(t *testing.T, host, params, query string) (string, error) {
	t.Helper()
	return output(t, psqlCommand(host, params, query))
}

func psqlCommand(host, params, query string) *exec.Cmd {
	return exec.Command("psql", "-X", "-At", "-c", query, "user=fairlead dbname=postgres connect_timeout=20 hostaddr="+frontIP+
		" port="+frontPort(tcproute.Postgres)+" host="+host+" "+params)
}

// serverSawTLS asks the server itself.
const serverSawTLS = "select 'tls=' || ssl from pg_stat_ssl where pid = pg_backend_pid()"

func TestA21Psql(t *testing.T) {
	postgres(t)
	for _, host := range []string{passHost, termHost, tlsHost} {
		want := "tls=true"
		if host == termHost {
			want = "tls=false"
		}
		for _, mode := range []string{"sslmode=prefer", "sslmode=require", "sslmode=verify-full sslrootcert=" + caFile()} {
			out, err := psql(t, host, mode, serverSawTLS)
			if err != nil {
				t.Errorf("%s, %s: %v\n%s", host, mode, err, out)
			}
			has(t, host+", "+mode, out, want)
		}
	}
	// A26: the name as people write it.
	out, err := psql(t, strings.ToUpper(passHost), "sslmode=require", serverSawTLS)
	if err != nil {
		t.Errorf("in capitals: %v\n%s", err, out)
	}
	if out, err = psql(t, passHost+".", "sslmode=require", serverSawTLS); err != nil {
		t.Errorf("with a dot: %v\n%s", err, out)
	}
}

// A21: GSSENCRequest, then SSLRequest, then TLS, then the server's own words.
// libpq asks for GSS only with a Kerberos ticket, so this speaks the bytes.
func TestA21GSSAttempt(t *testing.T) {
	postgres(t)
	c, err := net.Dial("tcp", front(tcproute.Postgres))
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	answer := make([]byte, 1)
	for _, step := range []struct{ say, want string }{{"\x00\x00\x00\x08\x04\xd2\x16\x30", "N"}, {"\x00\x00\x00\x08\x04\xd2\x16\x2f", "S"}} {
		_, err := io.WriteString(c, step.say)
		must(t, err)
		if _, err := io.ReadFull(c, answer); err != nil || string(answer) != step.want {
			t.Fatalf("answer %q, %v; want %s", answer, err, step.want)
		}
	}
	tc := tls.Client(c, &tls.Config{ServerName: passHost, RootCAs: authority.Pool})
	_, err = io.WriteString(tc, "\x00\x00\x00\x29\x00\x03\x00\x00user\x00fairlead\x00database\x00postgres\x00\x00")
	must(t, err)
	b := make([]byte, 9)
	if _, err := io.ReadFull(tc, b); err != nil || b[0] != 'R' {
		t.Errorf("the server answers %q, %v; want an authentication message", b, err)
	}
}

// A24, A25: what a person at psql reads.
func TestA24PsqlErrors(t *testing.T) {
	postgres(t)
	for _, tc := range []struct {
		name, host, params string
		want               []string
	}{
		{"no TLS", passHost, "sslmode=disable", []string{
			"FATAL:  this server needs TLS: it finds your database by the host name in the TLS handshake", "HINT:  Connect with sslmode=require",
		}},
		{"unknown", noHost, "sslmode=require", []string{"SSL error: tlsv1 unrecognized name"}},
		{"unknown, prefer", noHost, "sslmode=prefer", []string{"SSL error: tlsv1 unrecognized name", "FATAL:  this server needs TLS"}},
		{"unknown, certificate", goneHost, "sslmode=verify-full sslrootcert=" + caFile(), []string{
			`FATAL:  no PostgreSQL service has the host name "` + goneHost + `" here`, "HINT:  Compare",
		}},
		{"an address", frontIP, "sslmode=require", []string{"SSL error: tlsv1 unrecognized name"}},
		{"no name", passHost, "sslmode=require sslsni=0", []string{"SSL error: tlsv1 unrecognized name"}},
		{"a socket path", "", "sslmode=require", []string{"SSL error: tlsv1 unrecognized name"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := psql(t, tc.host, tc.params, "select 1")
			if err == nil {
				t.Errorf("psql succeeds: %s", out)
			}
			for _, w := range tc.want {
				has(t, "psql", out, w)
			}
		})
	}
}

// A22: pgx, also with TLS at once, to a server that does not know that itself.
func TestA22Pgx(t *testing.T) {
	postgres(t)
	for _, host := range []string{passHost, termHost, tlsHost} {
		for _, option := range []string{"", "sslnegotiation=direct"} {
			out, err := drivers(t, tcproute.Postgres, "pgx", host, option)
			if err != nil || out != "ok 12345\n" {
				t.Errorf("%s, %q: %v\n%s", host, option, err, out)
			}
		}
	}
	out, err := drivers(t, tcproute.Postgres, "pgx", noHost, "")
	if err == nil {
		t.Error("an unknown name is served")
	}
	has(t, "unknown", out, "unrecognized name")
	out, _ = drivers(t, tcproute.Postgres, "pgx", goneHost, "")
	has(t, "unknown, certificate", out, "FATAL: no PostgreSQL service has the host name")
	has(t, "unknown, certificate", out, "08004")
}

// Ctrl-C in psql: with terminate the CancelRequest finds its server; with
// passthrough it is closed without an answer and the query goes on.
func TestPostgresCancel(t *testing.T) {
	postgres(t)
	for _, tc := range []struct {
		host     string
		seconds  string
		canceled bool
		result   tcproute.Result
	}{
		{termHost, "61", true, tcproute.Canceled},
		{tlsHost, "62", true, tcproute.Canceled},
		{passHost, "3", false, tcproute.CancelUnknown},
	} {
		t.Run(tc.host, func(t *testing.T) {
			before := count(tcproute.Postgres, tc.result)
			query := "select pg_sleep(" + tc.seconds + ")"
			cmd := psqlCommand(tc.host, "sslmode=require", query)
			cmd.Env = append(os.Environ(), "LC_ALL=C")
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &said, &said
			must(t, cmd.Start())
			kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
			defer kill.Stop()
			for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
				out, err := psql(t, tc.host, "", "select count(*) from pg_stat_activity where state = 'active' and query = '"+query+"'")
				if err == nil && out == "1\n" {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the query does not begin: %v\n%s", err, out)
				}
			}
			must(t, cmd.Process.Signal(os.Interrupt))
			err := cmd.Wait()
			if got := strings.Contains(said.String(), "canceling statement due to user request"); got != tc.canceled {
				t.Errorf("canceled: %t, want %t: %v\n%s", got, tc.canceled, err, said.String())
			}
			// The query may have ended before the connection that asked for it has.
			for deadline := time.Now().Add(patience); count(tcproute.Postgres, tc.result) != before+1; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("no connection is counted as %s", tc.result)
				}
			}
		})
	}
}

func TestPgbench(t *testing.T) {
	postgres(t)
	bench := func(host string, args ...string) {
		cmd := exec.Command(pgbench(t), append(args, "-U", "fairlead", "postgres")...)
		cmd.Env = append(os.Environ(), "PGHOST="+host, "PGHOSTADDR="+frontIP, "PGPORT="+frontPort(tcproute.Postgres), "PGSSLMODE=require")
		out, err := output(t, cmd)
		if err != nil || strings.Contains(out, "error") {
			t.Errorf("pgbench %q at %s: %v\n%s", args, host, err, out)
		}
		if !strings.Contains(strings.Join(args, " "), "-i") {
			has(t, host, out, "number of failed transactions: 0")
		}
	}
	bench(passHost, "-i", "-q", "-s", "2")
	bench(passHost, "-n", "-S", "-c", "16", "-j", "2", "-t", "100")
	bench(passHost, "-n", "-S", "-C", "-c", "4", "-t", "15") // a connection for each
	bench(termHost, "-n", "-c", "8", "-t", "30")
	bench(tlsHost, "-n", "-S", "-c", "8", "-t", "30")
}

func pgbench(t *testing.T) string {
	t.Helper()
	paths, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if len(paths) == 0 {
		t.Fatal("no pgbench below /usr/lib/postgresql: scripts/setup.sh test installs it")
	}
	return paths[len(paths)-1]
}
