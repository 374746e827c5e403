package bench

import (
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
	Notes    []string `json:"notes,omitempty"` // what was not measured, and why
}

// Result is one figure: of every peer, and in relation.
type Result struct {
	Name   string       `json:"name"` // such as "files 1 MB"
	Unit   string       `json:"unit"` // lower is better in all of them
	Reps   int          `json:"reps"`
	Peers  []PeerResult `json:"peers"`  // aftls is the first
	Ratios []Ratio      `json:"ratios"` // aftls over each of the others
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

// Goal is what a figure has to stay below.
type Goal struct {
	Of  string  `json:"of"` // ratio, interval (its upper end) or value (of aftls)
	Max float64 `json:"max"`
	Met bool    `json:"met"`
}

// What a goal is of.
const (
	ofRatio    = "ratio"
	ofInterval = "interval"
	ofValue    = "value"
)

// goalOver is the peer that goals about ratios are measured against.
const goalOver = "crypto/tls"

// result makes a Result of samples, by peer.
func result(name, unit string, samples series, goal *Goal, foreign *float64) Result {
	res := Result{Name: name, Unit: unit, Goal: goal, ForeignCPUs: foreign}
	for i, xs := range samples {
		res.Reps = len(xs)
		res.Peers = append(res.Peers, PeerResult{
			Peer: peers[i].name, Samples: xs,
			Median: median(xs), Min: slices.Min(xs), Max: slices.Max(xs),
		})
		if q := quotients(samples[0], xs); i > 0 && len(q) > 0 {
			low, high := bootstrap(q)
			res.Ratios = append(res.Ratios, Ratio{
				Over: peers[i].name, Median: median(q), Low: low, High: high,
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
		res.Goal.Met = len(res.Peers) > 0 && res.Peers[0].Median <= res.Goal.Max
		return
	}
	for _, q := range res.Ratios {
		if q.Over == goalOver {
			res.Goal.Met = q.Median <= res.Goal.Max
			if res.Goal.Of == ofInterval {
				res.Goal.Met = q.High <= res.Goal.Max
			}
		}
	}
}

// WriteJSON writes the report for machines.
func (rep *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(rep)
}
