"""Pictures and words from shards: WebDataset tars and Parquet, bucketed, streamed, resumable to the sample, cached."""
