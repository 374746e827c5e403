package bench

import (
	"math/rand/v2"
	"slices"
)

// resamples is how often the bootstrap draws. Two runs over the same samples
// give the same interval: the generator has a fixed seed.
const resamples = 2000

// median is the middle of xs, 0 if there are none. xs keeps its order.
func median(xs []float64) float64 {
	s := slices.Sorted(slices.Values(xs))
	n := len(s)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// bootstrap returns a 95 % interval of the median of xs: medians of samples
// drawn from xs with replacement, without their outer 2.5 % on either side.
func bootstrap(xs []float64) (low, high float64) {
	if len(xs) == 0 {
		return 0, 0
	}
	rng := rand.New(rand.NewPCG(1, 2))
	medians := make([]float64, resamples)
	drawn := make([]float64, len(xs))
	for i := range medians {
		for j := range drawn {
			drawn[j] = xs[rng.IntN(len(xs))]
		}
		medians[i] = median(drawn)
	}
	slices.Sort(medians)
	const out = resamples / 40
	return medians[out], medians[resamples-1-out]
}

// quotients divides pair by pair. A repetition in which b is 0 has none.
func quotients(a, b []float64) []float64 {
	var q []float64
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			q = append(q, a[i]/b[i])
		}
	}
	return q
}
