package aftlsprom_test

import (
	"crypto/tls"
	"log"
	"net/http"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlshttp"
	"github.com/aftls/aftls/aftlsprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func ExampleCollector() {
	c := aftlsprom.New()
	prometheus.MustRegister(c)
	config := &tls.Config{NextProtos: []string{"h2", "http/1.1"}} // and certificates
	ln, err := aftls.Listen("tcp", ":8443", config, aftls.Options{HandshakeError: c.HandshakeError})
	if err != nil {
		log.Fatal(err)
	}
	go http.ListenAndServe("127.0.0.1:9464", promhttp.Handler())
	srv := &http.Server{Handler: http.FileServer(http.Dir("public")), ConnState: c.ConnState}
	log.Fatal(aftlshttp.Serve(srv, ln))
}
