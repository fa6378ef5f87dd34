"""The command line's verbs, one module each, with `add_arguments(parser)` and `run(args, callback) -> dict | None`.

The parser reaches a verb's module before any work is done, so at import time these modules use the standard library
alone; what is heavy is imported inside `run`.
"""
