package main

import (
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/aftls/aftls/aftlsprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of whoever asks for metrics.
const (
	maxScrapes    = 4 // at once
	scrapeTimeout = 10 * time.Second
)

// serveMetrics counts the connections of r from now on, and answers scrapes until
// end is called.
func serveMetrics(addr string, r *roster) (end func(), err error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, hint(err, "choose another address with --metrics; 127.0.0.1:0 takes a free port")
	}
	r.metrics = aftlsprom.New()
	reg := prometheus.NewRegistry()
	reg.MustRegister(r.metrics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	errorLog := slog.NewLogLogger(r.logger.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, ErrorLog: errorLog}))
	srv := &http.Server{
		Handler: mux, ErrorLog: errorLog, MaxHeaderBytes: 16 << 10,
		ReadTimeout: scrapeTimeout, WriteTimeout: scrapeTimeout, IdleTimeout: 2 * time.Minute,
	}
	go srv.Serve(ln)
	r.logger.Info("metrics: whoever reaches the address sees them", "url", "http://"+ln.Addr().String()+"/metrics")
	return func() { srv.Close() }, nil
}
