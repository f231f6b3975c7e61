"""Measures what the other folders make: quality, agreement, speed, start-up; and the demo that shows it all."""
