"""How references to datasets read; known without database and object stores, for every command of the terminal."""

FILE_ID_PREFIX = "file-"
MANIFEST_SUFFIXES = (".csv", ".jsonl", "manifest.parquet", "metadata.parquet")  # other Parquet holds images
CONTAINER_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".parquet")
SHARD_SUFFIX = ".tar"
TORCHVISION = "torchvision://"
