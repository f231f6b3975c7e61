"""`unipic2-edge`: the front door. It knows the commands by name and imports one only when it is called.

Each folder registers its commands in `COMMANDS` as `module:function` pairs by naming convention: the module
holds `<command>_arguments(parser)` and `<command>(arguments) -> Outcome`. The table holds strings, so that
`--help` stays fast and the import arrows stay as they are.
"""
