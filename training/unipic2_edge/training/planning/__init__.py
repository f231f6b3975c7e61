"""What a recipe would take, told before it runs: `train --dry-run`."""
