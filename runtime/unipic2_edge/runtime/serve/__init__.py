"""The local server: OpenAI's image endpoints, jobs, health, metrics and a page over one pipeline."""
