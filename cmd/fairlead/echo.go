// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/signal"
	"syscall"

	"github.com/fairlead-lb/fairlead/pkg/echo"
	"github.com/spf13/cobra"
)

func (a *app) echo() *cobra.Command {
	c := &cobra.Command{
		Use:   "echo",
		Short: "A small server to try a balancer with: HTTP, TCP echo, UDP echo",
		Example: `  fairlead echo --http :8080
  fairlead echo --tcp :7 --udp :7 --name replica-1`,
		Args: cobra.NoArgs,
	}
	cfg := echo.Config{Out: a.out}
	c.Flags().StringSliceVar(&cfg.HTTP, "http", nil, "answer HTTP on these addresses (default :8080 when no address is given at all)")
	c.Flags().StringSliceVar(&cfg.TCP, "tcp", nil, "send TCP streams back on these addresses")
	c.Flags().StringSliceVar(&cfg.UDP, "udp", nil, "send UDP datagrams back on these addresses")
	c.Flags().StringVar(&cfg.Name, "name", "", "told in the answers (default $FAIRLEAD_REPLICA, else the host name)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if len(cfg.HTTP)+len(cfg.TCP)+len(cfg.UDP) == 0 {
			cfg.HTTP = []string{":8080"}
		}
		ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return echo.Run(ctx, cfg)
	}
	return c
}
