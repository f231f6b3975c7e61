"""Reports of benchmarks made readable: one or many, as Markdown, as an HTML page with plots, as an index."""
