package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		xs   []float64
		want float64
	}{
		{nil, 0},
		{[]float64{7}, 7},
		{[]float64{3, 1}, 2},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 100, 2}, 3},
	} {
		before := slices.Clone(c.xs)
		if got := median(c.xs); got != c.want {
			t.Errorf("median(%v) = %v, want %v", before, got, c.want)
		}
		if !slices.Equal(before, c.xs) {
			t.Errorf("median changed %v to %v", before, c.xs)
		}
	}
}

func TestBootstrapOfOneValue(t *testing.T) {
	if low, high := bootstrap([]float64{2, 2, 2, 2}); low != 2 || high != 2 {
		t.Errorf("interval of equal samples is %v..%v", low, high)
	}
	if low, high := bootstrap(nil); low != 0 || high != 0 {
		t.Errorf("interval of nothing is %v..%v", low, high)
	}
}

// A 95 % interval holds the true median in about 95 of 100 experiments: far
// fewer and the interval is too narrow, all of them and it is too wide.
func TestBootstrapCoverage(t *testing.T) {
	const experiments, samples, truth = 100, 21, 10.0
	rng := rand.New(rand.NewPCG(3, 4))
	held := 0
	for range experiments {
		xs := make([]float64, samples)
		for i := range xs {
			xs[i] = truth + rng.NormFloat64()
		}
		low, high := bootstrap(xs)
		if m := median(xs); low > m || high < m {
			t.Fatalf("interval %v..%v without its median %v", low, high, m)
		}
		if low <= truth && truth <= high {
			held++
		}
	}
	if held < experiments*88/100 || held == experiments {
		t.Errorf("the interval held the true median in %d of %d experiments", held, experiments)
	}
}

func TestBootstrapIsRepeatable(t *testing.T) {
	xs := []float64{1, 5, 2, 9, 4, 7, 3}
	low1, high1 := bootstrap(xs)
	low2, high2 := bootstrap(xs)
	if low1 != low2 || high1 != high2 {
		t.Errorf("%v..%v, then %v..%v", low1, high1, low2, high2)
	}
	if low1 < 1 || high1 > 9 || low1 >= high1 {
		t.Errorf("interval %v..%v of samples from 1 to 9", low1, high1)
	}
}

func TestQuotients(t *testing.T) {
	got := quotients([]float64{1, 2, 3, 4}, []float64{2, 0, 4})
	if want := []float64{0.5, 0.75}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, q := range quotients([]float64{1}, []float64{0}) {
		if math.IsInf(q, 0) {
			t.Error("a quotient by zero")
		}
	}
}
