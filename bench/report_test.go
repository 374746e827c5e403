package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// twoToFour has ratios 0.5, 0.5 and 1.
var twoToFour = series{{1, 2, 3}, {2, 4, 3}}

func TestResult(t *testing.T) {
	res := result("files 1 MB", unitPerGB, twoToFour, nil, nil)
	if res.Reps != 3 || len(res.Peers) != 2 || len(res.Ratios) != 1 {
		t.Fatalf("%+v", res)
	}
	if p := res.Peers[1]; p.Peer != "crypto/tls" || p.Median != 3 || p.Min != 2 || p.Max != 4 {
		t.Errorf("peer %+v", p)
	}
	// The ratio of the medians is 2/3; that of the repetitions has to win.
	if q := res.Ratios[0]; q.Over != "crypto/tls" || q.Median != 0.5 || q.Min != 0.5 || q.Max != 1 || q.Low != 0.5 || q.High != 1 {
		t.Errorf("ratio %+v", q)
	}
}

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		goal Goal
		met  bool
		text string
	}{
		{Goal{Of: ofRatio, Max: 0.5}, true, "ratio <= 0.5: met"},
		{Goal{Of: ofRatio, Max: 0.49}, false, "ratio <= 0.49: missed"},
		{Goal{Of: ofInterval, Max: 1}, true, "upper end <= 1: met"},
		{Goal{Of: ofInterval, Max: 0.75}, false, "upper end <= 0.75: missed"},
		{Goal{Of: ofValue, Max: 2}, true, "aftls <= 2: met"},
		{Goal{Of: ofValue, Max: 1.9}, false, "aftls <= 1.9: missed"},
	} {
		goal := c.goal
		res := result("x", "y", twoToFour, &goal, nil)
		if res.Goal.Met != c.met || res.Goal.String() != c.text {
			t.Errorf("%+v: %q", c.goal, res.Goal)
		}
	}
}

func sampleReport() *Report {
	foreign := 0.125
	return &Report{
		Machine: Machine{CPU: "Chip 9", CPUs: 4, OS: "linux/amd64", Kernel: "6.1", Go: "go1.26", Revision: "abc+",
			ServerGOMAXPROCS: 1, ClientGOMAXPROCS: 2, Placement: "server on CPU 0, client on CPU 1", Suite: "TLS_AES_128_GCM_SHA256"},
		Results: []Result{
			result("send", unitPerGB, twoToFour, &Goal{Of: ofRatio, Max: 0.75}, &foreign),
			result("idle x 5000, after GC", "kB/conn", series{{123.4, 123.4}, {12.34, 12.34}}, nil, nil),
		},
		Notes: []string{"echo was not measured: no echo"},
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := sampleReport().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	const want = `Chip 9, 4 CPUs, linux/amd64 6.1, go1.26, aftls abc+
server on CPU 0, client on CPU 1; GOMAXPROCS 1 and 2; TLS 1.3, TLS_AES_128_GCM_SHA256, X25519, ECDSA P-256

row                    unit      reps  aftls              crypto/tls         ratio to crypto/tls  95 %            min..max      goal                others' CPUs
send                   CPU s/GB  3     2.00 [1.00..3.00]  3.00 [2.00..4.00]  0.500                0.500..1.000    0.50..1.00    ratio <= 0.75: met  0.12
idle x 5000, after GC  kB/conn   2     123 [123..123]     12.3 [12.3..12.3]  10.000               10.000..10.000  10.00..10.00  -                   ?
note: echo was not measured: no echo
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}

func TestTableWarns(t *testing.T) {
	rep := sampleReport()
	rep.Quick, rep.Profiled = true, true
	var b strings.Builder
	if err := rep.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"numbers mean nothing", "cost of profiling"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	rep := sampleReport()
	if err := rep.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var raw struct {
		Machine map[string]any
		Results []struct {
			Name, Unit string
			Reps       int
			Peers      []struct {
				Peer    string
				Median  float64
				Samples []float64
			}
			Ratios      []map[string]any
			Goal        map[string]any
			ForeignCPUs *float64 `json:"foreign_cpus"`
		}
		Notes []string
	}
	if err := json.Unmarshal(b.Bytes(), &raw); err != nil {
		t.Fatal(err)
	}
	first := raw.Results[0]
	if first.Name != "send" || first.Unit != unitPerGB || first.Reps != 3 || !slices.Equal(first.Peers[0].Samples, []float64{1, 2, 3}) {
		t.Errorf("%+v", first)
	}
	for key, want := range map[string]any{"over": "crypto/tls", "median": 0.5, "low": 0.5, "high": 1.0, "min": 0.5, "max": 1.0} {
		if got := first.Ratios[0][key]; got != want {
			t.Errorf("ratio: %s is %v, want %v", key, got, want)
		}
	}
	for key, want := range map[string]any{"of": "ratio", "max": 0.75, "met": true} {
		if got := first.Goal[key]; got != want {
			t.Errorf("goal: %s is %v, want %v", key, got, want)
		}
	}
	if *first.ForeignCPUs != 0.125 || raw.Results[1].ForeignCPUs != nil {
		t.Errorf("foreign CPUs: %v, %v", first.ForeignCPUs, raw.Results[1].ForeignCPUs)
	}
	if raw.Machine["server_gomaxprocs"] != 1.0 || raw.Machine["suite"] != "TLS_AES_128_GCM_SHA256" {
		t.Errorf("machine: %v", raw.Machine)
	}
	if !slices.Equal(raw.Notes, rep.Notes) {
		t.Errorf("notes: %v", raw.Notes)
	}
}

// Whoever is measured first in one repetition is last in the next, the warm-up
// does not count, and the samples of one repetition stay together.
func TestInterleave(t *testing.T) {
	var order []int
	var told []string
	turn := make([]float64, len(peers))
	r := newRunner(context.Background(), Config{
		Progress: func(row string, rep, reps int) { told = append(told, fmt.Sprint(row, " ", rep, "/", reps)) },
	}, "")
	defer r.watch.Stop()
	figures, _, err := r.interleave(pace{name: "x", reps: 3, warm: true}, func(peer int) ([]float64, error) {
		order = append(order, peer)
		turn[peer]++
		return []float64{turn[peer], 10 * turn[peer]}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []int{1, 0, 0, 1, 1, 0, 0, 1}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	for p := range peers {
		if want := []float64{2, 3, 4}; !slices.Equal(figures[0][p], want) {
			t.Errorf("first figure of peer %d: %v, want %v", p, figures[0][p], want)
		}
		if want := []float64{20, 30, 40}; !slices.Equal(figures[1][p], want) {
			t.Errorf("second figure of peer %d: %v, want %v", p, figures[1][p], want)
		}
	}
	if want := []string{"x 0/3", "x 1/3", "x 2/3", "x 3/3"}; !slices.Equal(told, want) {
		t.Errorf("progress %q, want %q", told, want)
	}
	if figures, _, _ = r.interleave(pace{reps: 2}, func(int) ([]float64, error) { return []float64{1}, nil }); len(figures[0][0]) != 2 {
		t.Errorf("without a warm-up: %d samples of 2", len(figures[0][0]))
	}
	if n := r.reps(2); n != 2 {
		t.Errorf("%d repetitions, want the row's own 2", n)
	}
	r.cfg.Reps = 5
	if n := r.reps(2); n != 5 {
		t.Errorf("%d repetitions, want the 5 that were asked for", n)
	}
}

// Lives share the repetitions out, and lose and repeat no sample.
func TestLives(t *testing.T) {
	r := newRunner(context.Background(), Config{}, "")
	defer r.watch.Stop()
	for _, reps := range []int{1, starts - 1, starts, 5*starts + 3} {
		lives, next := 0, 0.0
		samples, foreign, err := r.lives(reps, func(n int) (series, *float64, error) {
			lives++
			part := make(series, len(peers))
			for range n {
				next++
				for i := range part {
					part[i] = append(part[i], next)
				}
			}
			load := float64(lives % 3)
			return part, &load, nil
		})
		if err != nil || lives != min(reps, starts) || *foreign != float64(min(lives, 2)) {
			t.Fatalf("%d repetitions: %d lives, load %v, %v", reps, lives, *foreign, err)
		}
		for i, s := range samples {
			if len(s) != reps || s[0] != 1 || s[reps-1] != float64(reps) {
				t.Errorf("%d repetitions: peer %d has %d samples", reps, i, len(s))
			}
		}
	}
}

// What is better the higher has a goal from below, and names whom it is over.
func TestGoalsFromBelow(t *testing.T) {
	speeds := series{{3, 4}, {2, 2}} // 1.5 and 2 times as fast
	for _, c := range []struct {
		goal Goal
		met  bool
		text string
	}{
		{Goal{Of: ofRatio, Over: "that", Min: 1.75}, true, "ratio >= 1.75: met"},
		{Goal{Of: ofRatio, Over: "that", Min: 1.8}, false, "ratio >= 1.8: missed"},
		{Goal{Of: ofRatio, Min: 1.75}, false, "ratio >= 1.75: missed"}, // over crypto/tls, which is not here
		{Goal{Of: ofValue, Min: 3.5}, true, "aftls >= 3.5: met"},
		{Goal{Of: ofValue, Min: 3.6}, false, "aftls >= 3.6: missed"},
	} {
		goal := c.goal
		res := resultOf([]string{"this", "that"}, "x", "GB/s", speeds, &goal, nil)
		if res.Goal.Met != c.met || res.Goal.String() != c.text || res.Peers[0].Peer != "this" || res.Ratios[0].Over != "that" {
			t.Errorf("%+v: %q, %+v", c.goal, res.Goal, res)
		}
	}
}

// Rows that compare others have heads of their own.
func TestTableOfOthers(t *testing.T) {
	rep := sampleReport()
	rep.Results = append(rep.Results,
		resultOf([]string{"one"}, "alone", "us", series{{1}}, nil, nil),
		resultOf([]string{"one"}, "again", "us", series{{2}}, nil, nil))
	var b strings.Builder
	if err := rep.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	const want = `
row    unit  reps  one                goal  others' CPUs
alone  us    1     1.00 [1.00..1.00]  -     ?
again  us    1     2.00 [2.00..2.00]  -     ?
note: `
	if !strings.Contains(b.String(), want) {
		t.Errorf("got\n%s\nwant in it\n%s", &b, want)
	}
}

// The page has every figure, asks for nothing from elsewhere, and takes what it is
// given as text.
func TestWriteHTML(t *testing.T) {
	rep := sampleReport()
	rep.Notes = append(rep.Notes, "<b>bold</b>")
	rep.Results = append(rep.Results, resultOf([]string{"a", "<i>"}, "nothing & zero", unitSpeed, series{{0}, {0}}, nil, nil))
	var b bytes.Buffer
	if err := rep.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"Chip 9", "<h3>send</h3>", "idle x 5000, after GC", "goal: ratio &lt;= 0.75: met", "crypto/tls", ">123<", "&lt;b&gt;bold", "nothing &amp; zero",
		"more is better", "less is better",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not there", want)
		}
	}
	for _, not := range []string{"http:", "https:", "src=", "url(", "<script", "<b>", "<i>", "NaN", "Inf"} {
		if strings.Contains(text, not) {
			t.Errorf("%q is there", not)
		}
	}
	if n := strings.Count(text, "<svg"); n != len(rep.Results) || n != strings.Count(text, "</svg>") {
		t.Errorf("%d pictures of %d figures", n, len(rep.Results))
	}
}
