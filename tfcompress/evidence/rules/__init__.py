"""Rules: a benchmark's result in, a verdict out."""
