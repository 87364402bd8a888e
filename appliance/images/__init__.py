"""Images on their way into the pool: where their bytes come from, what they are, how they are written.

An image is hostile until shown otherwise (rule 16): its format is stated, never probed, its header and tables are
checked, and what converts it has no rights.
"""
