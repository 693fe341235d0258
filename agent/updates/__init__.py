"""A release on this device: trusted, fetched, proven, switched to, and taken back.

From the outside in:

    run, install, status    what `sdk-agent` asks for
    recover                 after any start: what was interrupted
    action, obtain, proving one action on its way through `states`; apart, preflight: its process
    keeping, doubt, strain  between actions: whether what runs is still to be trusted
    outcome                 its end: confirmed, rolled back, refused
    offers                  what the repository assigns to this device
    trust, assignment       who has signed what; client: python-tuf, freshness: how old it is
    source, fetch, delta    where bytes come from; package: from one file
    sound                   what no release may hold
    home                    the state folder: journal, slots, blobs
    states, judge, ladder   the decisions, pure
"""
