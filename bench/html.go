package bench

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
)

// The page has everything in it: no network, no script.

//go:embed report.html
var pageText string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"digits": digits,
	"plot":   plot,
	"lines":  Machine.lines,
}).Parse(pageText))

// WriteHTML writes the report as a page to look at: a picture of every figure, with
// the samples in it, and the table below.
func (rep *Report) WriteHTML(w io.Writer) error {
	var b bytes.Buffer // all of it or nothing
	if err := page.Execute(&b, struct {
		*Report
		Sections []section
	}{rep, rep.sections()}); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

// section is figures that belong together.
type section struct {
	Title   string
	Results []Result
}

// sections are the figures by the first word of their names, in the order of the
// report.
func (rep *Report) sections() (all []section) {
	for _, res := range rep.Results {
		title, _, _ := strings.Cut(res.Name, " ")
		title = strings.TrimSuffix(title, ",")
		if n := len(all); n == 0 || all[n-1].Title != title {
			all = append(all, section{Title: title})
		}
		s := &all[len(all)-1]
		s.Results = append(s.Results, res)
	}
	return all
}

// Better says which way is better.
func (res Result) Better() string {
	if res.Unit == unitSpeed {
		return "more is better"
	}
	return "less is better"
}

// Disturbed says how much else the machine did, if that was much.
func (res Result) Disturbed() string {
	if res.ForeignCPUs == nil || *res.ForeignCPUs <= 0.2 {
		return ""
	}
	return fmt.Sprintf("%s CPUs were busy with something else", digits(*res.ForeignCPUs))
}

// Sizes of a picture, in pixels.
const (
	plotName  = 170 // what stands left of the bars
	plotBars  = 460
	plotRoom  = 90 // right of them
	plotLine  = 30
	plotBar   = 16
	plotWidth = plotName + plotBars + plotRoom
)

// plot is the picture of one figure: a bar for every peer as long as its median, and
// a dot for every sample.
func plot(res Result) template.HTML {
	most := 0.0
	for _, p := range res.Peers {
		// One sample that went astray must not make bars of all others too short to see.
		most = max(most, min(p.Max, 2*p.Median))
	}
	if most <= 0 {
		most = 1
	}
	at := func(x float64) float64 {
		return plotName + plotBars*math.Max(0, math.Min(x/most, 1))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, plotWidth, len(res.Peers)*plotLine, template.HTMLEscapeString(res.Name))
	for i, p := range res.Peers {
		y := i * plotLine
		class := "other"
		if i == 0 {
			class = "ours"
		}
		fmt.Fprintf(&b, `<text class="peer" x="%d" y="%d">%s</text>`, plotName-10, y+plotBar+2, template.HTMLEscapeString(p.Peer))
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`, class, plotName, y+5, at(p.Median)-plotName, plotBar)
		for j, x := range p.Samples {
			// Dots of equal samples side by side, up and down.
			fmt.Fprintf(&b, `<circle class="sample" cx="%.1f" cy="%d" r="1.6"/>`, at(x), y+9+j*3%9)
		}
		fmt.Fprintf(&b, `<text class="value" x="%.1f" y="%d">%s</text>`, at(math.Min(math.Max(p.Max, p.Median), most))+8, y+plotBar+2, digits(p.Median))
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}
