"""What it costs, as ratios measured in one run: `make bench`. Tests never assert a time; this is where times are."""
