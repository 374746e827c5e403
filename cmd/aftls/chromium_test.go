package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"image/png"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// page says in its title what came of it: its own text, its picture, and what a
// WebSocket answered to each of many messages.
const page = `<!doctype html><html lang="en"><meta charset="utf-8"><title>loading</title>
<style>body { font: 24px sans-serif; background: #def } </style>
<h1>over a TLS socket</h1><img id="picture" src="picture.svg" alt="a circle"><pre id="log"></pre>
<script src="script.js"></script></html>
`

const script = `
window.outcome = (async () => {
	const text = await (await fetch("text")).text();
	await document.getElementById("picture").decode();
	const ws = new WebSocket("wss://localhost:PORT/socket");
	const echoed = await new Promise((resolve, reject) => {
		let n = 0, bytes = 0;
		ws.onerror = () => reject("the WebSocket failed");
		ws.onopen = () => ws.send("x".repeat(1));
		ws.onmessage = e => {
			bytes += e.data.length;
			if (++n < 50) ws.send("x".repeat(n * n * 10)); else ws.close(1000);
		};
		ws.onclose = e => resolve(n + " messages, " + bytes + " bytes, " + e.code + (e.wasClean ? " clean" : ""));
	});
	const said = text.length + " bytes of text by " + performance.getEntriesByName(location.href)[0].nextHopProtocol + "; " + echoed;
	document.getElementById("log").textContent = said;
	return said;
})();
`

// A page of 'aftls serve', over HTTP/2, opens a WebSocket to a server behind 'aftls
// proxy'. The browser trusts one key, and nothing else is forgiven.
func TestChromium(t *testing.T) {
	program := aftlstest.Need(t, "chromium-headless-shell")
	dir := t.TempDir()
	sockets := backendHTTP(t)
	_, addr := startStreams(t, "proxy", "--to", sockets, "--alpn", "http/1.1")
	_, port, _ := net.SplitHostPort(addr)
	write(t, filepath.Join(dir, "index.html"), []byte(page))
	write(t, filepath.Join(dir, "script.js"), []byte(strings.Replace(script, "PORT", port, 1)))
	write(t, filepath.Join(dir, "text"), bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
	write(t, filepath.Join(dir, "picture.svg"), []byte(`<svg xmlns="http://www.w3.org/2000/svg" width="200" height="200"><circle cx="100" cy="100" r="90" fill="teal"/></svg>`))
	p, addr := startServe(t, dir)
	_, port, _ = net.SplitHostPort(addr)
	url := "https://localhost:" + port + "/"

	b := startBrowser(t, program, spki(t))
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	const want = "1048576 bytes of text by h2; 50 messages, "
	var said string
	b.evaluate(`new Promise(resolve => {
		const look = () => window.outcome ? window.outcome.then(resolve, e => resolve("failed: " + e)) : setTimeout(look, 10);
		look();
	})`, &said)
	if !strings.HasPrefix(said, want) || !strings.HasSuffix(said, " 1000 clean") {
		t.Errorf("the page says %q", said)
	}
	var shot struct{ Data []byte }
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	image, err := png.Decode(bytes.NewReader(shot.Data))
	if err != nil {
		t.Fatal(err)
	}
	blue, teal := false, false // background and picture are there
	for x := range image.Bounds().Dx() {
		for y := range image.Bounds().Dy() {
			r, g, b, _ := image.At(x, y).RGBA()
			blue = blue || r>>8 == 0xdd && g>>8 == 0xee && b>>8 == 0xff
			teal = teal || r>>8 == 0 && g>>8 == 0x80 && b>>8 == 0x80
		}
	}
	if !blue || !teal {
		t.Error("the picture of the page does not show it")
	}
	write(t, filepath.Join(t.ArtifactDir(), "page.png"), shot.Data) // go test -artifacts keeps it

	// Without the key the page is not loaded: the browser did look.
	other := startBrowser(t, program, base64.StdEncoding.EncodeToString(make([]byte, sha256.Size)))
	var navigated struct{ ErrorText string }
	other.call("Page.navigate", map[string]any{"url": url}, &navigated)
	if !strings.HasPrefix(navigated.ErrorText, "net::ERR_CERT_") {
		t.Errorf("with a key that it does not trust: %q", navigated.ErrorText)
	}
	p.await("remote error: tls: unknown certificate")
}

// spki is what the browser is told to trust: the SHA-256 of the development
// certificate's public key.
func spki(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(stateHome(t), "aftls", "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// backendHTTP answers WebSockets with what they send.
func backendHTTP(t *testing.T) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{OriginPatterns: []string{"localhost:*"}})
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		for {
			typ, b, err := c.Read(r.Context())
			if err != nil {
				if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
					t.Error(err)
				}
				return
			}
			if err := c.Write(r.Context(), typ, b); err != nil {
				t.Error(err)
				return
			}
		}
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// browser is one page of a headless Chromium, which is told what to do by the DevTools
// protocol.
type browser struct {
	t   *testing.T
	ctx context.Context
	c   *websocket.Conn
	id  int
}

func startBrowser(t *testing.T, program, trusted string) *browser {
	t.Helper()
	args := []string{
		"--remote-debugging-port=0", "--user-data-dir=" + t.TempDir(), "--ignore-certificate-errors-spki-list=" + trusted,
		"--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--window-size=800,600",
	}
	if os.Getuid() == 0 {
		args = append(args, "--no-sandbox") // Chromium has none for root
	}
	p := aftlstest.Command{Name: program, Args: append(args, "about:blank")}.Start(t)
	endpoint := p.Expect(`DevTools listening on ws://([^/]+)/`)[1]
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	var pages []struct{ Type, WebSocketDebuggerURL string }
	for len(pages) == 0 { // the page is there a little later
		resp, err := http.Get("http://" + endpoint + "/json/list")
		if err != nil {
			t.Fatal(err)
		}
		err = json.NewDecoder(resp.Body).Decode(&pages)
		resp.Body.Close()
		if err = errors.Join(err, ctx.Err()); err != nil {
			t.Fatal(err)
		}
	}
	c, _, err := websocket.Dial(ctx, pages[0].WebSocketDebuggerURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(32 << 20) // screenshots
	return &browser{t: t, ctx: ctx, c: c}
}

// call calls a method and reads its result, unless into is nil.
func (b *browser) call(method string, params map[string]any, into any) {
	b.t.Helper()
	b.id++
	if err := wsjson.Write(b.ctx, b.c, map[string]any{"id": b.id, "method": method, "params": params}); err != nil {
		b.t.Fatal(err)
	}
	for {
		var answer struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := wsjson.Read(b.ctx, b.c, &answer); err != nil {
			b.t.Fatal(method, err)
		}
		if answer.ID != b.id {
			continue // an event, or nothing that was asked for
		}
		if answer.Error != nil {
			b.t.Fatal(method, answer.Error.Message)
		}
		if into != nil {
			if err := json.Unmarshal(answer.Result, into); err != nil {
				b.t.Fatal(method, err)
			}
		}
		return
	}
}

// evaluate runs an expression in the page and waits for what it promises.
func (b *browser) evaluate(expression string, into any) {
	b.t.Helper()
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct{ Text string }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		b.t.Fatal(answer.ExceptionDetails.Text)
	}
	if err := json.Unmarshal(answer.Result.Value, into); err != nil {
		b.t.Fatal(err)
	}
}
