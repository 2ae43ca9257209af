"""What every part of the package may use and what depends on none of them."""
