"""Pictures and their texts packed many to a file: Parquet, WebDataset's tar, and what Hugging Face `datasets` saves."""
