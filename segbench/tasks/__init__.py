"""LightningModules: wiring only."""
