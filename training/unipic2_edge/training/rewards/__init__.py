"""Rewards: what a picture is worth, 0…1, as an answer to what was asked. No torch in the interface.

`reward` is the interface, `shapes` the shapes world's own, `geneval` GenEval's protocol with a detector and CLIP,
`judge` a model behind a chat server. `registry` makes the weighted mean that a recipe names, with the recipe's
`settings`, and `raters` runs it beside the sampling, with timeouts and retries.
"""
