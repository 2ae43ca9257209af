"""`segbench options`: the classes that YAML may name, and their options."""
