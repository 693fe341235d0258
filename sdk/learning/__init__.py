"""From reports of whole models to a profile's factors: what rigs and fleets measured, learnt.

records   what a build leaves of its measurements: reports.json
sources   where reports are read from: build folders, files, the catalog, a fleet
gather    which of them count for a profile, and why the others do not (pure)
scales    factors from those that count, robust against devices that lie or ail (pure)
keeping   the factors in a copy of the profile
"""
