package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/aftls/aftls/features"
	"github.com/spf13/cobra"
)

type doctorFlags struct {
	json, stats bool
	require     requirement
}

// requirement is a flag value: what the machine has to have.
type requirement string

func (r *requirement) String() string { return string(*r) }
func (r *requirement) Type() string   { return "provider" }

func (r *requirement) Set(s string) error {
	if s != "kernel" {
		return fmt.Errorf("nothing known as %q can be required: kernel", s)
	}
	*r = requirement(s)
	return nil
}

func doctorCommand() *cobra.Command {
	var f doctorFlags
	c := &cobra.Command{
		Use:   "doctor",
		Short: "say what this machine can do for TLS sockets, and why not",
		Long: `Each answer is found by trying the thing on the loopback. A "no" comes with its
reason and with what can be done about it. "unknown" means that it could not be tried.

Whatever the answers are, aftls works: what the kernel cannot do is done in user space.`,
		Example: `  aftls doctor
  aftls doctor --json | jq '.features[] | select(.answer != "yes")'
  aftls doctor --require kernel && systemctl start server`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return doctor(c.OutOrStdout(), f)
		},
	}
	c.Flags().BoolVar(&f.json, "json", false, "print JSON")
	c.Flags().BoolVar(&f.stats, "stats", false, "show the kernel's counters of TLS sockets too, and where their records are made")
	c.Flags().Var(&f.require, "require", "exit with 1 if the machine does not have it: kernel")
	c.RegisterFlagCompletionFunc("require", cobra.FixedCompletions([]string{"kernel"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// A diagnosis is what doctor prints.
type diagnosis struct {
	OS       string          `json:"os"`
	Arch     string          `json:"arch"`
	Kernel   string          `json:"kernel,omitempty"`
	Provider providerChoice  `json:"provider"`
	Features []featureResult `json:"features"`
	// Interfaces are null where the kernel could not be asked.
	Interfaces      []features.Interface `json:"interfaces"`
	InterfacesError string               `json:"interfaces_error,omitempty"`
	Stats           *tlsStats            `json:"stats,omitempty"`
}

// providerChoice is who does the record work where nothing else is asked for.
type providerChoice struct {
	TLS12  directions `json:"tls1.2"`
	TLS13  directions `json:"tls1.3"`
	Reason string     `json:"reason,omitempty"`
}

// directions are names of providers.
type directions struct {
	Send    string `json:"send"`
	Receive string `json:"receive"`
}

func (d directions) String() string {
	if d.Send == d.Receive {
		return d.Send
	}
	return fmt.Sprintf("send %s, receive %s", d.Send, d.Receive)
}

// kernel reports whether the kernel has any connection's records.
func (c providerChoice) kernel() bool { return c.TLS12.Send == "kernel" || c.TLS13.Send == "kernel" }

type featureResult struct {
	Name features.Feature `json:"name"`
	features.Result
}

// tlsStats are the counters of tls_stat by name, and the number of sockets by who
// makes their records. A part that could not be had is null.
type tlsStats struct {
	Counters map[string]uint64 `json:"counters"`
	TX       map[string]int    `json:"sockets_tx"`
	RX       map[string]int    `json:"sockets_rx"`
	Errors   []string          `json:"errors,omitempty"`
	order    []features.Counter
}

// suites are those that a connection may have; all of the first ones have to be there
// for the kernel to be counted on.
var suites = []struct {
	version        string
	suites, extras []features.Feature
}{
	{"1.2", []features.Feature{features.TLS12AES128GCM, features.TLS12AES256GCM, features.TLS12ChaCha20Poly1305}, []features.Feature{features.TLS12AES128CCM}},
	{"1.3", []features.Feature{features.TLS13AES128GCM, features.TLS13AES256GCM, features.TLS13ChaCha20Poly1305}, []features.Feature{features.TLS13AES128CCM}},
}

func diagnose(stats bool) *diagnosis {
	d := &diagnosis{OS: runtime.GOOS, Arch: runtime.GOARCH, Kernel: features.Kernel(), Provider: choose(features.Try)}
	for _, f := range features.All() {
		d.Features = append(d.Features, featureResult{f, features.Try(f)})
	}
	var err error
	if d.Interfaces, err = features.Interfaces(); err != nil {
		d.InterfacesError = err.Error()
	}
	if stats {
		d.Stats = readStats()
	}
	return d
}

// choose says what the provider "auto" comes to: docs/kernel.md.
func choose(try func(features.Feature) features.Result) providerChoice {
	soft, kernel := directions{"soft", "soft"}, directions{"kernel", "kernel"}
	if r := try(features.ULP); r.Answer != features.Yes {
		return providerChoice{soft, soft, "there are no TLS sockets: see ulp"}
	}
	var lacking, reasons []string
	var by [2]directions
	for i, v := range suites {
		by[i] = soft
		for _, s := range v.suites {
			if try(s).Answer == features.Yes {
				by[i] = kernel
			} else {
				lacking = append(lacking, string(s))
			}
		}
	}
	if len(lacking) > 0 {
		reasons = append(reasons, "connections with "+strings.Join(lacking, ", ")+" stay in soft")
	}
	c := providerChoice{TLS12: by[0], TLS13: by[1]}
	if c.TLS13 == kernel && try(features.Rekey).Answer != features.Yes {
		c.TLS13.Receive = "soft"
		reasons = append(reasons, "a KeyUpdate would end a connection that receives in the kernel: see rekey")
	}
	c.Reason = strings.Join(reasons, "; ")
	return c
}

func readStats() *tlsStats {
	s := &tlsStats{}
	counters, err := features.Counters()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Errors = append(s.Errors, "there is no /proc/net/tls_stat: see module")
	case err != nil:
		s.Errors = append(s.Errors, err.Error())
	default:
		s.order, s.Counters = counters, map[string]uint64{}
		for _, c := range counters {
			s.Counters[c.Name] = c.Value
		}
	}
	if s.TX, s.RX, err = features.Sockets(); err != nil {
		s.Errors = append(s.Errors, err.Error())
	}
	return s
}

// missing says what of the requirement is not there; nil if all is.
func (d *diagnosis) missing(r requirement) error {
	if r == "" || d.Provider.kernel() {
		return nil
	}
	for _, f := range d.Features {
		if f.Name == features.ULP && f.Answer != features.Yes {
			return hint(fmt.Errorf("the kernel provider is not to be had: %s", f.Reason), "%s", f.Remedy)
		}
	}
	return hint(fmt.Errorf("the kernel provider is not to be had: %s", d.Provider.Reason), "see 'aftls doctor'")
}

func doctor(w io.Writer, f doctorFlags) error {
	d := diagnose(f.stats)
	if f.json {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		if err := e.Encode(d); err != nil {
			return err
		}
	} else if err := d.print(w); err != nil {
		return err
	}
	return d.missing(f.require)
}

// print writes what fits on one screen: a line for each answer, and below a "no" its
// reason and remedy.
func (d *diagnosis) print(w io.Writer) error {
	t := &screen{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	system := d.OS + " " + d.Kernel
	t.line("system", strings.TrimSpace(system)+" on "+d.Arch)
	t.line("records", fmt.Sprintf("TLS 1.2: %s; TLS 1.3: %s", d.Provider.TLS12, d.Provider.TLS13))
	t.below(d.Provider.Reason)
	result := map[features.Feature]features.Result{}
	for _, f := range d.Features {
		result[f.Name] = f.Result
	}
	shown := map[features.Feature]bool{}
	for _, v := range suites {
		for _, s := range slices.Concat(v.suites, v.extras) {
			shown[s] = true
		}
	}
	for _, f := range d.Features {
		if !shown[f.Name] {
			t.result(string(f.Name), f.Result)
		}
		if f.Name == features.ULP {
			for _, v := range suites {
				t.suites(v.version, slices.Concat(v.suites, v.extras), result)
			}
		}
	}
	if d.InterfacesError != "" {
		t.line("interfaces", "unknown")
		t.below(d.InterfacesError)
	}
	for _, i := range d.Interfaces {
		if i.TX == i.RX {
			t.result("nic "+i.Name, i.TX)
		} else {
			t.result("nic "+i.Name+" tx", i.TX)
			t.result("nic "+i.Name+" rx", i.RX)
		}
	}
	if d.Stats != nil {
		t.stats(d.Stats)
	}
	return t.w.Flush()
}

// A screen has two columns: names and answers.
type screen struct{ w *tabwriter.Writer }

func (t *screen) line(name, text string) { fmt.Fprintf(t.w, "%s\t%s\n", name, text) }

func (t *screen) below(text string) {
	if text != "" {
		t.line("", "  "+text)
	}
}

func (t *screen) result(name string, r features.Result) {
	if r.Answer == features.Yes {
		if r.Reason != "" {
			t.line(name, "yes ("+r.Reason+")")
		} else {
			t.line(name, "yes")
		}
		return
	}
	t.line(name, fmt.Sprintf("%s: %s", r.Answer, r.Reason))
	t.below(r.Remedy)
}

// suites are one line for a version, and one below it for each reason.
func (t *screen) suites(version string, list []features.Feature, result map[features.Feature]features.Result) {
	prefix := "tls" + version
	var words, why []string
	for _, s := range list {
		r := result[s]
		name := strings.TrimPrefix(string(s), prefix+"-")
		words = append(words, name+" "+r.Answer.String())
		if r.Answer != features.Yes {
			reason := r.Reason
			if r.Remedy != "" {
				reason += ": " + r.Remedy
			}
			if !slices.Contains(why, reason) {
				why = append(why, reason)
			}
		}
	}
	t.line(prefix, strings.Join(words, ", "))
	for _, reason := range why {
		t.below(reason)
	}
}

func (t *screen) stats(s *tlsStats) {
	for _, c := range s.order {
		t.line(c.Name, fmt.Sprint(c.Value))
	}
	if s.TX != nil {
		t.line("sockets", fmt.Sprintf("tx: %s; rx: %s", counts(s.TX), counts(s.RX)))
	}
	for _, e := range s.Errors {
		t.line("stats", e)
	}
}

// counts writes a count of sockets in a fixed order.
func counts(m map[string]int) string {
	var words []string
	for _, place := range []string{"software", "device", "none", "unknown"} {
		if m[place] > 0 {
			words = append(words, fmt.Sprintf("%d %s", m[place], place))
		}
	}
	if len(words) == 0 {
		return "none seen"
	}
	return strings.Join(words, ", ")
}
