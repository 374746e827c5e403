package filter

import (
	"fmt"
	"strconv"
	"strings"
)

// arrow stands between the parts of a rule. No expression has it: a minus with a
// comparison behind it is nothing.
const arrow = "->"

// maxRules is how many rules a text may have. A program has room for fewer.
const maxRules = 4096

// ParseRules reads rules, each EXPRESSION -> VERDICT, with a semicolon or the end of
// a line between them. Without an expression a rule matches everything. A verdict is
// written as [Verdict] prints it: PASS, DROP, TRUNCATE(N), REDIRECT(N), SELECT(N) or
// KILL(N), in any case. Expressions are not looked at: [CompileRules] does that. The
// error is a [*SyntaxError].
func ParseRules(text string) ([]Rule, error) {
	if len(text) > maxText {
		return nil, &SyntaxError{text, 0, fmt.Sprintf("%d bytes are more than %d", len(text), maxText)}
	}
	var rules []Rule
	for at := 0; at < len(text); {
		end := strings.IndexAny(text[at:], ";\n")
		if end < 0 {
			end = len(text) - at
		}
		line := text[at : at+end]
		if strings.TrimSpace(line) != "" {
			when, then, ok := strings.Cut(line, arrow)
			if !ok {
				return nil, &SyntaxError{text, at + end, "-> and a verdict are expected"}
			}
			v, err := parseVerdict(strings.TrimSpace(then))
			if err != "" {
				return nil, &SyntaxError{text, at + len(when) + len(arrow), err}
			}
			if rules = append(rules, Rule{when, v}); len(rules) > maxRules {
				return nil, &SyntaxError{text, at, fmt.Sprintf("more than %d rules", maxRules)}
			}
		}
		at += end + 1
	}
	return rules, nil
}

// parseVerdict returns a verdict, or what is wrong.
func parseVerdict(s string) (v Verdict, wrong string) {
	name, rest, numbered := strings.Cut(s, "(")
	name = strings.TrimSpace(name)
	for v.Action = Drop; !strings.EqualFold(name, v.Action.String()); v.Action++ {
		if v.Action == Kill {
			return Verdict{}, "a verdict is expected: PASS, DROP, TRUNCATE(N), REDIRECT(N), SELECT(N) or KILL(N)"
		}
	}
	if v.Action == Drop || v.Action == Pass {
		if numbered {
			return Verdict{}, v.Action.String() + " has no number"
		}
		return v, ""
	}
	digits, ok := strings.CutSuffix(rest, ")")
	n, err := strconv.ParseUint(strings.TrimSpace(digits), 0, 32)
	if !ok || err != nil || n > MaxN {
		return Verdict{}, fmt.Sprintf("%v is followed by a number up to %d in parentheses", v.Action, MaxN)
	}
	v.N = uint32(n)
	return v, ""
}
