"""Commands beside LightningCLI's own; the file name is the verb, the function of that name its body."""
