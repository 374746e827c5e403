package bench

import "testing"

// The row about datagrams gives every figure.
func TestDatagramsQuick(t *testing.T) {
	cfg := smokeConfig(t)
	cfg.Rows = []string{rowDatagrams}
	rep, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Results) != 7 {
		t.Errorf("%d results", len(rep.Results))
	}
	for _, res := range rep.Results {
		if len(res.Peers) != 2 || res.Reps != 1 || !(res.Peers[0].Median > 0) || !(res.Peers[1].Median > 0) {
			t.Errorf("%+v", res)
		}
	}
}
