"""Rewards: what a picture is worth, 0…1, as an answer to what was asked. No torch in the interface.

`reward` is the interface, `shapes` the shapes world's own, `registry` makes the weighted sum that a recipe names, and
`raters` runs it beside the sampling, with timeouts and retries.
"""
