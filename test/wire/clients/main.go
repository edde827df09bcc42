// SPDX-License-Identifier: Apache-2.0

// Clients speaks to a database with the field's Go drivers, as the wire tests
// tell it: clients KIND ADDRESS HOST CA [OPTION]. ADDRESS is connected to,
// whatever HOST is. It prints "ok" and what it read, or the driver's error.
//
// It is a module of its own: three drivers and what they need would otherwise
// be in fairlead's go.mod, for tests alone.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: clients pgx|redis|mongo ADDRESS HOST CA [OPTION]")
		os.Exit(2)
	}
	c := client{address: os.Args[2], host: os.Args[3], ca: os.Args[4]}
	if len(os.Args) > 5 {
		c.option = os.Args[5]
	}
	run := map[string]func(context.Context) (string, error){"pgx": c.pgx, "redis": c.redis, "mongo": c.mongo}[os.Args[1]]
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	got, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ok", got)
}

type client struct{ address, host, ca, option string }

func (c client) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, c.address)
}

func (c client) tls() (*tls.Config, error) {
	pem, err := os.ReadFile(c.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: pool, ServerName: c.host}, nil
}

// pgx verifies the certificate; option is added to the connection string.
func (c client) pgx(ctx context.Context) (string, error) {
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=%s user=fairlead dbname=postgres sslmode=verify-full sslrootcert=%s connect_timeout=20 %s", c.host, c.ca, c.option))
	if err != nil {
		return "", err
	}
	cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	cfg.DialFunc = c.dial
	db, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return "", err
	}
	defer db.Close(ctx)
	var got string
	for range 10 {
		if err := db.QueryRow(ctx, "select string_agg(i::text, '') from generate_series(1, 5) i").Scan(&got); err != nil {
			return "", err
		}
	}
	return got, nil
}

func (c client) redis(ctx context.Context) (string, error) {
	cfg, err := c.tls()
	if err != nil {
		return "", err
	}
	if c.option == "plain" {
		cfg = nil
	}
	db := redis.NewClient(&redis.Options{Addr: c.address, TLSConfig: cfg, MaxRetries: -1, Dialer: nil})
	defer db.Close()
	if err := db.Set(ctx, "wire", "value", time.Minute).Err(); err != nil {
		return "", err
	}
	return db.Get(ctx, "wire").Result()
}

func (c client) mongo(ctx context.Context) (string, error) {
	cfg, err := c.tls()
	if err != nil {
		return "", err
	}
	o := options.Client().ApplyURI("mongodb://" + c.host + ":27017/?directConnection=true&serverSelectionTimeoutMS=3000").
		SetDialer(dialer(c.dial))
	if c.option != "plain" {
		o.SetTLSConfig(cfg)
	}
	db, err := mongo.Connect(o)
	if err != nil {
		return "", err
	}
	defer func() { _ = db.Disconnect(context.WithoutCancel(ctx)) }()
	coll := db.Database("shop").Collection("orders")
	if _, err := coll.InsertOne(ctx, bson.D{{Key: "_id", Value: 1}, {Key: "what", Value: "rope"}}); err != nil {
		return "", err
	}
	var out struct{ What string }
	err = coll.FindOne(ctx, bson.D{}).Decode(&out)
	return out.What, err
}

type dialer func(context.Context, string, string) (net.Conn, error)

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}
