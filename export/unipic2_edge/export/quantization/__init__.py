"""Quantisation: what a layer is stored and multiplied in, found by calibration and written as standard Q/DQ."""
