"""The bounded search: the best variant under the limits, within a time that the user sets.

`moves` decides what to try next, `standing` who leads, both pure; `loop` lowers, screens and races.
docs/explanation/search.md tells the method.
"""
