"""Run folders: where they are, who may write them, and the files in them."""
