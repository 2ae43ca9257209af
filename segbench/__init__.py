"""segbench: which segmentation decoder is better, where, by how much, at what cost, and is it real?"""

__version__ = "0.1.0"
