package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/aftls/aftls"
)

// topSnapshot is the state of a server at one moment.
type topSnapshot struct {
	Command     string   `json:"command"`
	PID         int      `json:"pid"`
	Total       uint64   `json:"total"` // connections so far
	Connections []topRow `json:"connections"`
}

// topRow is a connection.
type topRow struct {
	ID      uint64       `json:"id"` // counts from 1
	Peer    string       `json:"peer"`
	Age     float64      `json:"age_seconds"`
	Version string       `json:"version"`
	Suite   string       `json:"suite"`
	Resumed bool         `json:"resumed"`
	Tapped  bool         `json:"tapped"`
	Send    topDirection `json:"send"`
	Receive topDirection `json:"receive"`
	Failed  string       `json:"failed,omitempty"`
}

type topDirection struct {
	Provider string `json:"provider"`
	Why      string `json:"why_not_kernel,omitempty"`
	Records  uint64 `json:"records"`
	Bytes    uint64 `json:"bytes"`
	Rekeys   uint64 `json:"rekeys"`
}

func newTopRow(e entry) topRow {
	i := e.conn.Info()
	row := topRow{
		ID: e.id, Peer: peerOf(e.conn), Age: time.Since(e.since).Seconds(),
		Version: i.Send.VersionName(), Suite: i.Send.SuiteName(), Resumed: i.Resumed, Tapped: i.Tapped,
		Send: newTopDirection(i.Send), Receive: newTopDirection(i.Receive),
	}
	if i.Failed != nil {
		row.Failed = i.Failed.Error()
	}
	return row
}

func newTopDirection(i aftls.DirectionInfo) topDirection {
	d := topDirection{Provider: i.Provider.String(), Records: i.Records, Bytes: i.Bytes, Rekeys: i.Rekeys}
	if d.Provider != kernelProvider {
		d.Why = i.Reason
	}
	return d
}

// writeTop writes a topSnapshot in one line, row by row: of thousands of connections
// there is one row in memory. Connections wait for nothing of it.
func writeTop(w io.Writer, r *roster) error {
	open, total := r.all()
	slices.SortFunc(open, func(a, b entry) int { return cmp.Compare(a.id, b.id) })
	b := bufio.NewWriterSize(w, 32<<10)
	fmt.Fprintf(b, `{"command":%q,"pid":%d,"total":%d,"connections":[`, r.command, os.Getpid(), total)
	for i, e := range open {
		if i > 0 {
			b.WriteByte(',')
		}
		row, err := json.Marshal(newTopRow(e))
		if err != nil {
			return err
		}
		if _, err := b.Write(row); err != nil {
			return err
		}
	}
	b.WriteString("]}\n")
	return b.Flush()
}
