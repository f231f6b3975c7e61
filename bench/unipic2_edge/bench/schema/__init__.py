"""What a report holds, as types and as one JSON schema (`bench/report.schema.json`)."""
