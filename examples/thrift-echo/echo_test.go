package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aftls/aftls/aftlstest"
	"github.com/aftls/aftls/kcm"
	"github.com/apache/thrift/lib/go/thrift"
)

// limit bounds a hang. Nothing is measured with it.
const limit = 30 * time.Second

// start runs the program with a certificate for localhost. stop ends it in good
// order.
func start(t *testing.T) (addr, ca string, pool *x509.CertPool, stop func() error) {
	t.Helper()
	authority := aftlstest.NewCA(t)
	cert, key, ca := authority.WriteFiles(t, authority.Leaf(t, "localhost"))
	ctx, cancel := context.WithCancel(t.Context())
	out, says := io.Pipe()
	over := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"-listen", "127.0.0.1:0", "-cert", cert, "-key", key}, says)
		says.CloseWithError(err)
		over <- err
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(line, "listening %s", &addr); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	stopped := false
	stop = func() error {
		stopped = true
		cancel()
		return <-over
	}
	t.Cleanup(func() {
		if !stopped {
			if err := stop(); err != nil {
				t.Error(err)
			}
		}
	})
	return addr, ca, authority.Pool, stop
}

// python finds an interpreter that has Debian's python3-thrift: it need not be
// the first in PATH.
func python(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import thrift.protocol.TBinaryProtocol").Run() == nil {
			return name
		}
	}
	if aftlstest.Expected("python3-thrift") {
		t.Fatal("python3-thrift is missing, and AFTLS_EXPECT says that it is here")
	}
	t.Skip("python3-thrift is missing")
	return ""
}

func TestManyCallersOfPython(t *testing.T) {
	py := python(t)
	addr, ca, _, _ := start(t)
	_, port, _ := net.SplitHostPort(addr)
	out, err := exec.CommandContext(t.Context(), py, "client.py", "localhost", port, ca, "32", "20").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var calls, overtaken int
	if _, err := fmt.Sscanf(string(out), "%d calls, %d answers were overtaken", &calls, &overtaken); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if calls < 32*20+1 || overtaken == 0 {
		t.Errorf("%s", out)
	}
}

// call packs a call as a framed message.
func call(t testing.TB, name string, kind thrift.TMessageType, seq int32, text string) []byte {
	t.Helper()
	ctx := context.Background()
	b := thrift.NewTMemoryBuffer()
	p := thrift.NewTBinaryProtocolConf(b, config)
	for _, err := range []error{
		p.WriteMessageBegin(ctx, name, kind, seq),
		p.WriteFieldBegin(ctx, "other", thrift.I32, 7), // of a later version of the service
		p.WriteI32(ctx, 1),
		p.WriteFieldBegin(ctx, "text", thrift.STRING, 1),
		p.WriteString(ctx, text),
		p.WriteFieldStop(ctx),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(b.Len())), b.Bytes()...)
}

// read reads an answer.
func read(t *testing.T, c io.Reader) (kind thrift.TMessageType, seq int32, text string) {
	t.Helper()
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	kind, seq, text, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return kind, seq, text
}

func parse(b []byte) (kind thrift.TMessageType, seq int32, text string, err error) {
	ctx := context.Background()
	in := thrift.NewTMemoryBuffer()
	in.Write(b)
	p := thrift.NewTBinaryProtocolConf(in, config)
	_, kind, seq, err = p.ReadMessageBegin(ctx)
	if err != nil {
		return
	}
	if kind == thrift.EXCEPTION {
		e := thrift.NewTApplicationException(0, "")
		err = e.Read(ctx, p)
		return kind, seq, e.Error(), err
	}
	_, _, id, err := p.ReadFieldBegin(ctx)
	if err == nil && id == 0 {
		text, err = p.ReadString(ctx)
	}
	return
}

func TestAnswersOvertake(t *testing.T) {
	addr, _, pool, stop := start(t)
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(limit))
	write := func(b []byte) {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	write(call(t, "wait", thrift.CALL, 1, "me"))
	for i := int32(2); i < 50; i++ {
		write(call(t, "echo", thrift.CALL, i, "somebody else"))
		if kind, seq, text := read(t, c); kind != thrift.REPLY || seq != i || text != "somebody else" {
			t.Fatal(kind, seq, text)
		}
	}
	write(call(t, "echo", thrift.ONEWAY, 50, "nobody")) // has no answer
	write(call(t, "nonsense", thrift.CALL, 51, ""))
	if kind, seq, text := read(t, c); kind != thrift.EXCEPTION || seq != 51 || !strings.Contains(text, "no method nonsense") {
		t.Error(kind, seq, text)
	}
	// The wait may reach a worker later than any of the calls behind it.
	got := map[int32]string{}
	for i := int32(60); got[1] == ""; i++ {
		write(call(t, "echo", thrift.CALL, i, "me"))
		for got[i] == "" {
			_, seq, text := read(t, c)
			got[seq] = text
		}
	}
	if got[1] != "me" {
		t.Errorf("the wait was answered with %q", got[1])
	}
	write(call(t, "echo", thrift.REPLY, 99, ""))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("after what is no call: %v, want the end of the connection", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func FuzzCall(f *testing.F) {
	for _, b := range [][]byte{call(f, "echo", thrift.CALL, 1, "text"), call(f, "nonsense", thrift.CALL, -1, ""), call(f, "echo", thrift.ONEWAY, 1, "x")} {
		f.Add(b[4:])
		f.Add(b[4 : len(b)-3])
	}
	// A list of 2^31-1 elements of type 17, in the place of the arguments: nobody
	// counts to there.
	bomb := call(f, "echo", thrift.CALL, 1, "")[4:]
	f.Add(append(bomb[:4+4+4+4:4+4+4+4], thrift.LIST, 0, 2, 17, 0x7f, 0xff, 0xff, 0xff, 0))
	e := newEcho()
	f.Fuzz(func(t *testing.T, b []byte) {
		if strings.Contains(string(b), "wait") {
			return // for its time
		}
		answer, err := e.handle(nil, kcm.Message{Data: append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)})
		if err != nil || len(answer) == 0 {
			return
		}
		if int(binary.BigEndian.Uint32(answer)) != len(answer)-4 {
			t.Fatalf("an answer of %d bytes: %x", len(answer), answer)
		}
		if _, _, _, err := parse(answer[4:]); err != nil {
			t.Fatalf("%x: %v", answer, err)
		}
	})
}
