package kcm

import (
	"bytes"
	"math"
)

// RESP is the framer of Redis' protocol, versions 2 and 3, both directions: a
// message is one whole command or answer, however deep it is nested. Refused
// are inline commands, which have no type, and RESP 3's streamed strings and
// aggregates, whose length is "?".
//
// The framer remembers how far it came in a message that has begun, so no value
// is looked at twice. It serves one connection.
func RESP() Framer { return &resp{} }

type resp struct {
	at   int // where the next value of the message begins
	left int // values to come; 0: no message has begun
}

const (
	leastValue = 3 // bytes: type, CR, LF
	null       = "-1\r\n"

	// What has no length of its own has to end some day: as in Redis
	// (PROTO_INLINE_MAX_SIZE) with numbers short enough for 32 bits.
	mostLine   = 64 << 10
	mostDigits = 10

	// Values to come, so that their least number of bytes can be told.
	mostValues = math.MaxInt32 / (2 * leastValue)
)

func (r *resp) Frame(head []byte) (int, error) {
	at, left := r.at, r.left
	if left == 0 || at > len(head) { // a new message; nobody is misled by an old one
		at, left = 0, 1
	}
	for {
		// What most messages consist of goes fast: arrays of up to 9 values,
		// and strings of up to 99 bytes.
		if h := head[at:]; len(h) > 4 && h[1]-'0' <= 9 {
			n, i := int(h[1]-'0'), 4
			if h[2] != '\r' {
				n, i = n*10+int(h[2]-'0'), 5
			}
			if (i == 4 || h[2]-'0' <= 9 && h[3] == '\r') && h[i-1] == '\n' {
				if h[0] == '$' {
					if i += n + 2; i <= len(h) && h[i-2] == '\r' && h[i-1] == '\n' {
						at += i
						if left--; left > 0 {
							continue
						}
						break
					}
				} else if h[0] == '*' && n > 0 && i == 4 {
					at += i
					left += n - 1
					continue
				}
			}
		}
		next, inside, err := value(head, at)
		if err != nil {
			return 0, err
		}
		if next <= 0 {
			r.at, r.left = at, left
			return next - leastValue*(left-1), nil
		}
		at = next
		if left += inside - 1; left == 0 {
			break
		}
		if left > mostValues {
			return 0, refuse("not RESP: more than %d values in a message", mostValues)
		}
	}
	if r.left != 0 {
		r.left = 0
	}
	return at, nil
}

// value looks at the value at head[at:]: where the next one begins, and how
// many more than itself have to come because of it. next is the negated number
// of bytes that are missing, at least, when it is not whole.
func value(head []byte, at int) (next, inside int, err error) {
	if at >= len(head) {
		return -leastValue, 0, nil
	}
	i := at + 1
	c := head[at]
	switch c {
	case '$', '*', '=', '!', '~', '>', '%', '|':
	case '+', '-', ':', '_', ',', '#', '(':
		next, err = line(head, i)
		return next, 0, err
	default:
		return 0, 0, refuse("not RESP: there is no type %q", c)
	}

	v, from := int64(0), i
	for ; i < len(head); i++ {
		d := head[i] - '0'
		if d > 9 {
			break
		}
		v = v*10 + int64(d)
		if i-from >= mostDigits {
			return 0, 0, refuse("not RESP: a length has more than %d digits", mostDigits)
		}
	}
	if i+1 >= len(head) {
		if i == len(head) && i > from {
			return -2, 0, nil // CR, LF
		}
		if i == len(head) {
			return -3, 0, nil // a digit, or more
		}
		if i > from && head[i] == '\r' {
			return -1, 0, nil
		}
	} else if i > from && head[i] == '\r' && head[i+1] == '\n' {
		i += 2
		switch c {
		case '*', '~', '>':
			inside = small(v)
		case '%':
			inside = small(2 * v)
		case '|': // in front of the value proper
			inside = small(2*v + 1)
		default:
			return text(head, i, v)
		}
		return i, inside, nil
	}
	if c == '$' || c == '*' {
		if k := min(len(head)-from, len(null)); string(head[from:from+k]) == null[:k] {
			if k < len(null) {
				return k - len(null), 0, nil
			}
			return from + k, 0, nil
		}
	}
	return 0, 0, refuse("not RESP: %q is followed by no length", c)
}

// small returns v, or what is more values than there may be.
func small(v int64) int { return int(min(v, mostValues+1)) }

// text finds the end of v bytes at head[i:] and of the CR and LF behind them.
func text(head []byte, i int, v int64) (next, inside int, err error) {
	if v > math.MaxInt32/4 {
		return 0, 0, refuse("not RESP: a string of %d bytes", v)
	}
	n := int(v)
	if len(head)-i < n+2 {
		return len(head) - i - n - 2, 0, nil
	}
	if head[i+n] != '\r' || head[i+n+1] != '\n' {
		return 0, 0, refuse("not RESP: a string is longer than its length of %d bytes", v)
	}
	return i + n + 2, 0, nil
}

// line finds the end of the line at head[i:].
func line(head []byte, i int) (next int, err error) {
	n := bytes.IndexByte(head[i:min(len(head), i+mostLine+1)], '\r')
	end := i + n
	switch {
	case n < 0 && len(head)-i > mostLine:
		return 0, refuse("not RESP: a line of more than %d bytes", mostLine)
	case n < 0:
		return -2, nil
	case end+1 == len(head):
		return -1, nil
	case head[end+1] != '\n':
		return 0, refuse("not RESP: CR without LF")
	}
	return end + 2, nil
}
