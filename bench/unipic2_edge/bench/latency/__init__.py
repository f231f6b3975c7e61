"""Latency: bundles, sizes, steps, tasks and memory plans, their runs turn about, each stage of each run by itself."""
