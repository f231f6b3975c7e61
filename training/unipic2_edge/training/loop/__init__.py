"""The training loop, the same for every stage and any number of processes, and what it stands on."""
