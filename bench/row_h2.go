package bench

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aftls/aftls"
	"github.com/aftls/aftls/aftlshttp"
)

const rowH2 = "h2"

// h2: net/http serves HTTP/2, a large answer, a large upload, and small requests.
// The client is net/http's: what it costs nobody counts.
func (r *runner) h2() error {
	bulk := r.scale.proxyBytes / fileConns
	requests := max(r.scale.echoMessages/fileConns/h2Streams, 1)
	connect := func(addr string) (h2User, func(), error) {
		c := r.h2Client()
		return h2User{c, "https://" + addr}, c.CloseIdleConnections, nil
	}
	ofBytes := func(cpu time.Duration) []float64 { return perGB(cpu, bulk*fileConns) }
	return measureParts(r, rowH2, connect, []part[h2User]{
		{"h2 down", unitPerGB, ofBytes, func(u h2User) error { return getBytes(u.Client, u.url+"/"+strconv.FormatInt(bulk, 10), bulk) }},
		{"h2 upload", unitPerGB, ofBytes, func(u h2User) error { return postBytes(u.Client, u.url, bulk) }},
		{fmt.Sprintf("h2 %d B x %d", messageSize, fileConns*h2Streams), "CPU us/request", func(cpu time.Duration) []float64 {
			return []float64{float64(cpu) / float64(time.Microsecond) / float64(requests*fileConns*h2Streams)}
		}, func(u h2User) error {
			return each(make([]struct{}, h2Streams), func(struct{}) error {
				for range requests {
					if err := getBytes(u.Client, u.url+"/"+strconv.Itoa(messageSize), messageSize); err != nil {
						return err
					}
				}
				return nil
			})
		}},
	})
}

// h2User is a client and its server.
type h2User struct {
	*http.Client
	url string
}

// h2Client has one connection.
func (r *runner) h2Client() *http.Client {
	config := r.clientConfig()
	config.NextProtos = []string{"h2"}
	tr := &http.Transport{TLSClientConfig: config, Protocols: new(http.Protocols), DisableCompression: true}
	tr.Protocols.SetHTTP2(true)
	return &http.Client{Transport: tr}
}

// h2Streams is how many requests are under way at once on a connection.
const h2Streams = 4

func getBytes(c *http.Client, url string, want int64) error {
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	return drained(resp, want)
}

func postBytes(c *http.Client, url string, n int64) error {
	resp, err := c.Post(url+"/0", "application/octet-stream", io.LimitReader(zeros{}, n))
	if err != nil {
		return err
	}
	return drained(resp, 0)
}

func drained(resp *http.Response, want int64) error {
	defer resp.Body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, clientBuffer))
	if err == nil && (n != want || resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2) {
		err = fmt.Errorf("%s %s, %d bytes and not %d", resp.Proto, resp.Status, n, want)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// serveH2 is the server of the row: it takes what is sent, and answers with as many
// bytes as the path says.
func serveH2(ln net.Listener) error {
	block := bytes.Repeat([]byte{'x'}, 64<<10)
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 16<<10))
			left, _ := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 64)
			w.Header().Set("Content-Length", strconv.FormatInt(left, 10))
			for left > 0 {
				n, err := w.Write(block[:min(left, int64(len(block)))])
				if left -= int64(n); err != nil {
					return
				}
			}
		}),
		ErrorLog: log.New(io.Discard, "", 0),
	}
	if ours, ok := ln.(*aftls.Listener); ok {
		return aftlshttp.Serve(srv, ours)
	}
	return srv.Serve(ln)
}
