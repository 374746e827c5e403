package main

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/aftls/aftls/kcm"
	"github.com/apache/thrift/lib/go/thrift"
)

// prefix is the length in front of a message in framed transport, in bytes.
const prefix = 4

// waitLimit is how long a wait takes at most.
const waitLimit = 10 * time.Second

// echo is the service.
type echo struct {
	mu      sync.Mutex
	waiting map[string][]chan struct{} // by text
}

func newEcho() *echo { return &echo{waiting: make(map[string][]chan struct{})} }

var config = &thrift.TConfiguration{MaxMessageSize: longest, MaxFrameSize: longest, TBinaryStrictRead: thrift.BoolPtr(true), TBinaryStrictWrite: thrift.BoolPtr(true)}

// handle answers a message. What is no call ends the connection; a call that
// cannot be done is answered with an exception.
func (e *echo) handle(answer []byte, m kcm.Message) ([]byte, error) {
	ctx := context.Background()
	in := thrift.NewTMemoryBufferLen(len(m.Data))
	in.Write(m.Data[prefix:])
	p := thrift.NewTBinaryProtocolConf(in, config)
	name, kind, seq, err := p.ReadMessageBegin(ctx)
	if err != nil {
		return nil, err
	}
	if kind != thrift.CALL && kind != thrift.ONEWAY {
		return nil, errors.New("a Thrift message that is no call")
	}
	text, err := readArguments(ctx, p)
	if err != nil {
		return nil, err
	}
	var failed thrift.TApplicationException
	switch name {
	case "echo":
		e.echo(text)
	case "wait":
		if !e.wait(text) {
			failed = thrift.NewTApplicationException(thrift.INTERNAL_ERROR, "nobody called echo with this text")
		}
	default:
		failed = thrift.NewTApplicationException(thrift.UNKNOWN_METHOD, "there is no method "+name)
	}
	if kind == thrift.ONEWAY {
		return nil, nil
	}
	out := thrift.NewTMemoryBufferLen(len(m.Data))
	if err := writeAnswer(ctx, thrift.NewTBinaryProtocolConf(out, config), name, seq, text, failed); err != nil {
		return nil, err
	}
	answer = binary.BigEndian.AppendUint32(answer, uint32(out.Len()))
	return append(answer, out.Bytes()...), nil
}

// readArguments reads what a compiler would call echo_args: field 1, a string.
func readArguments(ctx context.Context, p thrift.TProtocol) (text string, err error) {
	if _, err := p.ReadStructBegin(ctx); err != nil {
		return "", err
	}
	for {
		_, kind, id, err := p.ReadFieldBegin(ctx)
		if err != nil || kind == thrift.STOP {
			return text, err
		}
		if id == 1 && kind == thrift.STRING {
			text, err = p.ReadString(ctx)
		} else {
			err = p.Skip(ctx, kind)
		}
		if err != nil {
			return "", err
		}
	}
}

// writeAnswer writes a reply, field 0 of it, or an exception.
func writeAnswer(ctx context.Context, p thrift.TProtocol, name string, seq int32, text string, failed thrift.TApplicationException) error {
	if failed != nil {
		return errors.Join(p.WriteMessageBegin(ctx, name, thrift.EXCEPTION, seq), failed.Write(ctx, p), p.WriteMessageEnd(ctx))
	}
	return errors.Join(
		p.WriteMessageBegin(ctx, name, thrift.REPLY, seq),
		p.WriteFieldBegin(ctx, "success", thrift.STRING, 0),
		p.WriteString(ctx, text),
		p.WriteFieldStop(ctx),
		p.WriteMessageEnd(ctx))
}

// echo ends every wait for text.
func (e *echo) echo(text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.waiting[text] {
		close(c)
	}
	delete(e.waiting, text)
}

// wait waits for an echo, and reports whether it came.
func (e *echo) wait(text string) bool {
	c := make(chan struct{})
	e.mu.Lock()
	e.waiting[text] = append(e.waiting[text], c)
	e.mu.Unlock()
	limit := time.NewTimer(waitLimit)
	defer limit.Stop()
	select {
	case <-c:
		return true
	case <-limit.C:
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	left := e.waiting[text]
	for i := range left {
		if left[i] == c {
			left = append(left[:i], left[i+1:]...)
			break
		}
	}
	if e.waiting[text] = left; len(left) == 0 {
		delete(e.waiting, text)
	}
	return false
}
