"""How references to datasets read; known without database and object stores, for every command of the terminal."""

FILE_ID_PREFIX = "file-"
MANIFEST_SUFFIXES = (".csv", ".jsonl", "manifest.parquet", "metadata.parquet")  # other Parquet holds images
CONTAINER_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".parquet")
SHARD_SUFFIX = ".tar"
TORCHVISION = "torchvision://"


def without_suffix(name: str) -> str:
    """The name of a file as its dataset is called: `pets` of `pets.tar.gz`; any other name as it is."""
    suffixes = (*CONTAINER_SUFFIXES, *MANIFEST_SUFFIXES)
    ending = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(ending)]
