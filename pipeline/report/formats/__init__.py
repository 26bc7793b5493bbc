"""How pages and tables write numbers, texts and addresses.

`values` writes numbers and texts, `addresses` finds hosts and decides which addresses are links. Imports
`pipeline.config.credentials` and the parser of urls in stages. Start with `values`.
"""
