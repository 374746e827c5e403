package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestHanddStartsAndEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	p := start(t, "handd", "--socket", path)
	line, err := p.stdout.ReadString('\n')
	if err != nil || line != "listening "+path+"\n" {
		t.Fatal(line, err)
	}
	// Nobody else may look into its memory.
	if _, err := os.ReadFile("/proc/" + strconv.Itoa(p.Process.Pid) + "/environ"); err == nil && os.Getuid() != 0 {
		t.Error("the daemon can be looked into")
	}
	c, err := net.Dial("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	second := start(t, "handd", "--socket", path)
	if code := second.exit(); code != 1 || !strings.Contains(second.errors(), "hint: choose another socket") {
		t.Error(code, second.errors())
	}
	p.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Error(code, p.errors())
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is left behind")
	}
}

// As systemd starts it: the process that execs it has the number in LISTEN_PID.
func TestHanddActivated(t *testing.T) {
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inner := command(t, "handd")
	p := &process{Cmd: command(t), t: t}
	p.Cmd.Path, p.Cmd.Args = "/bin/sh", []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" handd`, inner.Path}
	p.Cmd.ExtraFiles = []*os.File{f}
	p.begin()
	line, err := p.stdout.ReadString('\n')
	if err != nil || line != "listening "+ln.Addr().String()+"\n" {
		t.Fatal(line, err, p.errors())
	}
	c, err := net.Dial("unixpacket", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("rubbish"))
	var b [512]byte
	if n, err := c.Read(b[:]); err != nil || !strings.Contains(string(b[:n]), "not a request") && !strings.Contains(string(b[:n]), "0 descriptors") {
		t.Error(n, err)
	}
	p.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Error(code, p.errors())
	}
}
