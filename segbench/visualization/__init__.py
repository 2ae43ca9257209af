"""Label maps as pictures, and charts."""
