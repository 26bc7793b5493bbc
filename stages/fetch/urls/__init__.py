"""Which urls may be requested: parsing as browsers do it, addresses and ports that are refused, block lists.

Imports nothing of `stages.fetch.http`, which sends the requests. `parse` is the place to start reading;
`addresses` has the guard against private addresses.
"""
