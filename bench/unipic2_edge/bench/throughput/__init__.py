"""Throughput: batches and requests at once, pictures a second, and pictures a joule where energy can be read."""
