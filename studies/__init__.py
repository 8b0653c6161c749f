"""Long measured studies: `python -m studies NAME`.

study: what a study is, cells and their settings. sources: where images come from.
journal: every finished cell, at once, on disk. running: one cell after the other.
results: the file that is kept, and how two of them are compared. plateau: a study.
"""
