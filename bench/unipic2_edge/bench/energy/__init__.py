"""Energy of a measurement: NVML's counter of GPUs, the power monitors of Jetsons, RAPL's counters of processors."""
