package bench

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// WriteTable writes the report for people.
func (rep *Report) WriteTable(w io.Writer) error {
	for _, line := range rep.Machine.lines() {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	if rep.Quick {
		fmt.Fprintln(w, "quick run: it shows that the rows work; the numbers mean nothing")
	}
	if rep.Profiled {
		fmt.Fprintln(w, "profiled: the numbers include the cost of profiling")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	above := ""
	for _, res := range rep.Results {
		// Rows that compare others are a table of their own.
		if head := res.head(); head != above {
			if err := t.Flush(); err != nil {
				return err
			}
			fmt.Fprintf(t, "\n%s\n", head)
			above = head
		}
		fmt.Fprintln(t, strings.Join(res.cells(), "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, note := range rep.Notes {
		if _, err := fmt.Fprintln(w, "note:", note); err != nil {
			return err
		}
	}
	return nil
}

func (res *Result) head() string {
	head := []string{"row", "unit", "reps"}
	for _, p := range res.Peers {
		head = append(head, p.Peer)
	}
	for _, q := range res.Ratios {
		head = append(head, "ratio to "+q.Over, "95 %", "min..max")
	}
	return strings.Join(append(head, "goal", "others' CPUs"), "\t")
}

func (res *Result) cells() []string {
	cells := []string{res.Name, res.Unit, strconv.Itoa(res.Reps)}
	for _, p := range res.Peers {
		cells = append(cells, fmt.Sprintf("%s [%s..%s]", digits(p.Median), digits(p.Min), digits(p.Max)))
	}
	for _, q := range res.Ratios {
		cells = append(cells, fmt.Sprintf("%.3f", q.Median), fmt.Sprintf("%.3f..%.3f", q.Low, q.High), fmt.Sprintf("%.2f..%.2f", q.Min, q.Max))
	}
	cells = append(cells, res.Goal.String())
	if res.ForeignCPUs == nil {
		return append(cells, "?")
	}
	return append(cells, fmt.Sprintf("%.2f", *res.ForeignCPUs))
}

// String is the goal and whether it was met. A nil goal is "-".
func (g *Goal) String() string {
	if g == nil {
		return "-"
	}
	what := map[string]string{ofRatio: "ratio", ofInterval: "upper end", ofValue: "aftls"}[g.Of]
	verdict := "missed"
	if g.Met {
		verdict = "met"
	}
	if g.Min != 0 {
		return fmt.Sprintf("%s >= %v: %s", what, g.Min, verdict)
	}
	return fmt.Sprintf("%s <= %v: %s", what, g.Max, verdict)
}

// digits shows three of them.
func digits(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}
