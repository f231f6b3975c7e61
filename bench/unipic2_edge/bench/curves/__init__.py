"""Learning curves: what runs of training logged, drawn over steps, samples or hours."""
