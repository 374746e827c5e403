// Package aftlsprom counts TLS sockets for Prometheus.
//
// A [Collector] is told when a connection begins and when it has ended. Everything
// else it reads from Info when it is asked, so it costs a connection one lock at
// either end, and nothing between. No metric has a label that a peer can make up.
//
//	c := aftlsprom.New()
//	prometheus.MustRegister(c)
//	ln, err := aftls.Listen("tcp", ":8443", config, aftls.Options{HandshakeError: c.HandshakeError})
//	// …
//	srv.ConnState = c.ConnState // net/http, also with package aftlshttp
//
// The metrics, of which docs/metrics.md has more:
//
//	aftls_connections
//	aftls_connection_directions{direction, provider}
//	aftls_handshakes_total{kind}
//	aftls_handshake_failures_total{reason}
//	aftls_records_total{direction, provider}
//	aftls_bytes_total{direction, provider}
//	aftls_rekeys_total{direction, provider}
//	aftls_connection_errors_total{blame}
package aftlsprom

import (
	"net"
	"net/http"
	"sync"

	"github.com/aftls/aftls"
	"github.com/prometheus/client_golang/prometheus"
)

// Connection is what is counted: an *aftls.Conn or *aftls.Socket. Its dynamic type
// must be a pointer.
type Connection interface{ Info() aftls.Info }

// Collector is a prometheus.Collector. Its methods may be called by any number of
// goroutines at once.
type Collector struct {
	mu         sync.Mutex
	open       map[Connection]struct{}
	ended      traffic // of connections that have ended
	handshakes [len(kinds)]uint64
	failures   [len(reasons)]uint64
	errors     [len(blames)]uint64
}

// New returns a Collector to be registered.
func New() *Collector {
	return &Collector{open: make(map[Connection]struct{}), ended: make(traffic)}
}

// flow is what is counted apart: a direction by a provider.
type flow struct{ direction, provider string }

// traffic counts flows.
type traffic map[flow]counts

type counts struct{ connections, records, bytes, rekeys uint64 }

func (t traffic) add(i aftls.Info, connections uint64) {
	for _, d := range []struct {
		of   aftls.Direction
		info aftls.DirectionInfo
	}{{aftls.Send, i.Send}, {aftls.Receive, i.Receive}} {
		f := flow{d.of.String(), d.info.Provider.String()}
		c := t[f]
		c.connections += connections
		c.records += d.info.Records
		c.bytes += d.info.Bytes
		c.rekeys += d.info.Rekeys
		t[f] = c
	}
}

// Begin counts a connection whose handshake is done, from now on.
func (c *Collector) Begin(conn Connection) {
	kind := full
	if conn.Info().Resumed {
		kind = resumed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[conn] = struct{}{}
	c.handshakes[kind]++
}

// End takes a connection away that began, and keeps what it has counted. It is
// called when the connection is closed, and of the connection nothing is kept.
func (c *Collector) End(conn Connection) {
	i := conn.Info()
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.open[conn]; !ok {
		return
	}
	delete(c.open, conn)
	c.ended.add(i, 0)
	if i.Failed != nil {
		c.errors[blameOf(i.Failed)]++
	}
}

// HandshakeError counts a handshake that failed. It is made to be
// aftls.Options.HandshakeError.
func (c *Collector) HandshakeError(_ net.Addr, err error) {
	r := reasonOf(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures[r]++
}

// ConnState is Begin and End for a http.Server, made to be its ConnState. What is
// hijacked has ended.
func (c *Collector) ConnState(nc net.Conn, s http.ConnState) {
	conn, ok := nc.(Connection)
	if !ok {
		return
	}
	switch s {
	case http.StateNew:
		c.Begin(conn)
	case http.StateClosed, http.StateHijacked:
		c.End(conn)
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("aftls_"+name, help, labels, nil)
}

var (
	connections = desc("connections", "Connections that are open.")
	directions  = desc("connection_directions", "Directions of open connections, by who does their record work.", "direction", "provider")
	handshakes  = desc("handshakes_total", "Handshakes that were done.", "kind")
	failures    = desc("handshake_failures_total", "Handshakes that failed, by reason.", "reason")
	records     = desc("records_total", "Records, control records among them.", "direction", "provider")
	bytes       = desc("bytes_total", "Bytes of application data.", "direction", "provider")
	rekeys      = desc("rekeys_total", "Changes of keys on living connections.", "direction", "provider")
	errorsTotal = desc("connection_errors_total", "Connections that ended with an error, by who is to blame.", "blame")
)

// Describe is called by Prometheus.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connections, directions, handshakes, failures, records, bytes, rekeys, errorsTotal} {
		ch <- d
	}
}

// Collect is called by Prometheus. Connections wait only while the list of them is
// copied.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	open := make([]Connection, 0, len(c.open))
	for conn := range c.open {
		open = append(open, conn)
	}
	// A connection that ends from here on is in open, and not in what has ended:
	// nothing counts twice, and no counter goes back.
	sum := make(traffic, len(c.ended))
	for f, n := range c.ended {
		sum[f] = n
	}
	done, failed, blamed := c.handshakes, c.failures, c.errors
	c.mu.Unlock()

	for _, conn := range open {
		sum.add(conn.Info(), 1)
	}
	gauge := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge(connections, uint64(len(open)))
	for f, n := range sum {
		gauge(directions, n.connections, f.direction, f.provider)
		counter(records, n.records, f.direction, f.provider)
		counter(bytes, n.bytes, f.direction, f.provider)
		counter(rekeys, n.rekeys, f.direction, f.provider)
	}
	for i, n := range done {
		counter(handshakes, n, kinds[i])
	}
	for i, n := range failed {
		counter(failures, n, reasons[i])
	}
	for i, n := range blamed {
		counter(errorsTotal, n, blames[i])
	}
}
