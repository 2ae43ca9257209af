"""Checkpoints of other code bases become segbench's: one file for each source, one engine for all.

`foreign_file` reads without running code; `segmenter` and `mmsegmentation` say what a file is in segbench's
terms, and which key becomes which; `keys` renames by such a table; `write` makes a self-describing checkpoint.
"""
