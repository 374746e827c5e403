package bench

import (
	"cmp"
	"encoding/json"
	"io"
	"slices"
)

// Report is the outcome of Run; its JSON is the output of --json. Fields may be
// added; the meaning of those that are here stays.
type Report struct {
	Machine  Machine  `json:"machine"`
	Quick    bool     `json:"quick,omitempty"`    // the amounts were too small to mean anything
	Profiled bool     `json:"profiled,omitempty"` // the figures include the cost of profiling
	Results  []Result `json:"results"`
	Notes    []string `json:"notes,omitempty"` // what was not measured, and why; what of a row the head does not say
}

// Result is one figure: of every peer, and in relation.
type Result struct {
	Name   string       `json:"name"` // such as "files 1 MB"
	Unit   string       `json:"unit"` // lower is better in all of them but GB/s
	Reps   int          `json:"reps"`
	Peers  []PeerResult `json:"peers"`  // ours is the first
	Ratios []Ratio      `json:"ratios"` // the first over each of the others
	Goal   *Goal        `json:"goal,omitempty"`

	// ForeignCPUs is how many CPUs were busy with something else meanwhile:
	// above 0.2 compare nothing but the ratios. It is missing where the
	// system does not tell.
	ForeignCPUs *float64 `json:"foreign_cpus,omitempty"`
}

// PeerResult are the samples of one peer, in the order of the repetitions.
type PeerResult struct {
	Peer    string    `json:"peer"`
	Median  float64   `json:"median"`
	Min     float64   `json:"min"`
	Max     float64   `json:"max"`
	Samples []float64 `json:"samples"`
}

// Ratio is aftls divided by another peer, repetition by repetition. Low and
// High are a 95 % bootstrap interval of the median.
type Ratio struct {
	Over   string  `json:"over"`
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Goal is what a figure has to stay below or, if Min is not 0, above.
type Goal struct {
	Of   string  `json:"of"`             // ratio, interval (its worse end) or value (of the first peer)
	Over string  `json:"over,omitempty"` // the peer of a ratio; empty: crypto/tls
	Max  float64 `json:"max"`
	Min  float64 `json:"min,omitempty"`
	Met  bool    `json:"met"`
}

// unitSpeed is the unit in which more is better.
const unitSpeed = "GB/s"

// What a goal is of.
const (
	ofRatio    = "ratio"
	ofInterval = "interval"
	ofValue    = "value"
)

// goalOver is the peer that goals about ratios are measured against, if they
// name no other.
const goalOver = "crypto/tls"

// result makes a Result of samples, by peer.
func result(name, unit string, samples series, goal *Goal, foreign *float64) Result {
	return resultOf(peerNames(), name, unit, samples, goal, foreign)
}

func resultOf(names []string, name, unit string, samples series, goal *Goal, foreign *float64) Result {
	res := Result{Name: name, Unit: unit, Goal: goal, ForeignCPUs: foreign}
	for i, xs := range samples {
		res.Reps = len(xs)
		res.Peers = append(res.Peers, PeerResult{
			Peer: names[i], Samples: xs,
			Median: median(xs), Min: slices.Min(xs), Max: slices.Max(xs),
		})
		if q := quotients(samples[0], xs); i > 0 && len(q) > 0 {
			low, high := bootstrap(q)
			res.Ratios = append(res.Ratios, Ratio{
				Over: names[i], Median: median(q), Low: low, High: high,
				Min: slices.Min(q), Max: slices.Max(q),
			})
		}
	}
	res.judge()
	return res
}

// judge compares with the goal.
func (res *Result) judge() {
	if res.Goal == nil {
		return
	}
	if res.Goal.Of == ofValue {
		res.Goal.Met = len(res.Peers) > 0 && res.Goal.holds(res.Peers[0].Median)
		return
	}
	for _, q := range res.Ratios {
		if q.Over == cmp.Or(res.Goal.Over, goalOver) {
			res.Goal.Met = res.Goal.holds(q.Median)
			if res.Goal.Of == ofInterval {
				res.Goal.Met = res.Goal.holds(q.High) && res.Goal.holds(q.Low)
			}
		}
	}
}

func (g *Goal) holds(x float64) bool {
	if g.Min != 0 {
		return x >= g.Min
	}
	return x <= g.Max
}

// WriteJSON writes the report for machines.
func (rep *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(rep)
}
